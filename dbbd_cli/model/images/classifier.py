"""Build image classifiers by name, load their weights, and combine them with the loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.model.classification import batch_metrics
from dbbd_cli.model.images.catalog import COMMON_MODELS, model_input
from dbbd_cli.model.images.qr_cnn import QrCnn
from dbbd_cli.model.output import StepOutput
from dbbd_cli.model.processes import part_of_mean
from dbbd_cli.model.weights import load_tensors, mismatches


class Classifier(nn.Module):
    """A network with its loss: cross-entropy, smoothed only while training.

    Args:
        network: maps images `(B, 3, S, S)` to logits `(B, num_classes)`.
        label_smoothing: share of the target that is distributed over all classes.
    """

    def __init__(self, network: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Returns the mean loss and the number of correct predictions of images `(B, 3, S, S)`, labels `(B,)`."""
        logits = self.network(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if self.training else 0.0)
        metrics = batch_metrics(logits, labels, training=self.training)
        return StepOutput(loss=part_of_mean(loss), metrics=metrics, num_samples=len(labels), logits=logits)


def build_network(name: str, *, num_classes: int, image_size: int, dropout: float, weights: str) -> nn.Module:
    """Build an image classifier.

    Args:
        name: `qr_cnn`, or the name of a torchvision classifier.
        num_classes: number of logits.
        image_size: height and width of the input, pixels.
        dropout: dropout probability before linear layers.
        weights: `none` (random), `default` (downloaded, torchvision only) or the path of a state dict.

    Raises:
        ConfigError: the model cannot take images of this size, or the pretrained weights cannot be downloaded.
        CheckpointError: the file of weights cannot be read or does not match.
    """
    if name == "qr_cnn":
        network: nn.Module = QrCnn(num_classes=num_classes, image_size=image_size, dropout=dropout)
    else:
        network = _torchvision_network(name, image_size, pretrained=weights == "default")
        _replace_head(network, num_classes, dropout)
        if name not in COMMON_MODELS:
            _check_image_size(network, name, image_size)
    if weights not in ("none", "default"):
        load_weights(network, Path(weights))
    return network


def _torchvision_network(name: str, image_size: int, *, pretrained: bool) -> nn.Module:
    # Imported here: qr_cnn does not need it, and the import takes more than a second.
    from torchvision import models

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):
        # Pretrained weights turn `transform_input` on, which a checkpoint does not store: it is on for all weights.
        options |= {"transform_input": True, "init_weights": not pretrained}
    try:
        network = models.get_model(name, weights="DEFAULT" if pretrained else None, progress=False, **options)
    except (ValueError, AssertionError) as error:  # only the sizes of vit and maxvit can be wrong
        raise _size_error(name, image_size, error) from error
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights: the pretrained weights of {name} cannot be downloaded ({error})",
            hint="train from random weights with --set model.weights=none, "
            "or use a downloaded state dict with --set model.weights=PATH",
        ) from error
    if hasattr(network, "aux_logits"):  # the auxiliary classifiers of googlenet and inception_v3
        network.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, auxiliary):
                setattr(network, auxiliary, None)
    return network


def _replace_head(network: nn.Module, num_classes: int, dropout: float) -> None:
    """Replace the last layer, which must compute torchvision's 1000 classes, and set the dropout before it.

    The dropout layers that belong to the classifier get the new probability; where there are none, one is added.
    """
    layers = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    path, last = layers[-1]
    head: nn.Module
    if isinstance(last, nn.Linear) and last.out_features == 1000:
        head = nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
    elif isinstance(last, nn.Conv2d) and last.out_channels == 1000 and last.kernel_size == (1, 1):
        head = nn.Conv2d(last.in_channels, num_classes, 1)
    else:
        raise ConfigError(
            f"model.name: the classifier at the end of {type(network).__name__} cannot be replaced",
            hint="choose a model that ends with a linear layer for 1000 classes",
        )
    parents = (path.partition(".")[0], "dropout")
    dropouts = [
        layer
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Dropout) and path.partition(".")[0] in parents
    ]
    for layer in dropouts:
        layer.p = dropout
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, head if dropouts else nn.Sequential(nn.Dropout(dropout), head))


def _check_image_size(network: nn.Module, name: str, image_size: int) -> None:
    """Raise unless the network can take images of this size; computes shapes only."""
    state = {key: value.to("meta") for key, value in network.state_dict().items()}
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    try:
        torch.func.functional_call(network, state, (images,))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _size_error(name, image_size, error) from error


def _size_error(name: str, image_size: int, error: Exception) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(
        f"data.image_size: {name} cannot take images of {image_size} x {image_size} pixels ({reason})",
        hint=f"leave data.image_size out: {name} then gets {model_input(name).size} pixels",
    )


_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Beginnings of the keys of auxiliary classifiers, which are not built."""


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the weights of a network from a state dict, or from a checkpoint that contains one.

    A last layer for a different number of classes stays random; everything else must match exactly.

    Raises:
        CheckpointError: the file is missing or not safe to read, or has different keys or shapes.
    """
    hint = "use a state dict of the same architecture, saved with torch.save(network.state_dict(), path)"
    content = load_tensors(path)
    state = _state_dict_in(content)
    if state is None:
        raise CheckpointError(f"model.weights: {path} contains no state dict", hint=hint)
    own = network.state_dict()
    state = {_own_key(key, own): value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    # Counters that old files lack, and that are never read.
    state |= {k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state}
    output_layer = [key for key in list(own)[-2:] if key in state and state[key].shape != own[key].shape]
    state, expected = (
        {key: value for key, value in weights.items() if key not in output_layer} for weights in (state, own)
    )
    if problems := mismatches(state, expected):
        raise CheckpointError(f"model.weights: {path} does not match the network", hint=hint, details=problems[:10])
    network.load_state_dict(state, strict=False)


def _own_key(key: str, own: Mapping[str, object]) -> str:
    """The key in our network: where dropout was added before the last layer, `fc.weight` is `fc.1.weight`."""
    stem, _, leaf = key.rpartition(".")
    inner = f"{stem}.1.{leaf}"
    return inner if key not in own and inner in own else key


def _state_dict_in(content: object) -> dict[str, torch.Tensor] | None:
    """The state dict of a bare network, of our checkpoints, or of other common checkpoints."""
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        prefix = "network." if all(str(key).startswith("network.") for key in content) else ""
        return {str(key)[len(prefix) :]: value for key, value in content.items()}
    for key in ("module", "model_state_dict", "state_dict", "model"):
        if key in content:
            return _state_dict_in(content[key])
    return None
