"""Image classifiers by name, and the module that owns network and loss."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.files import private_folder
from dbbd_cli.model.images.qr_cnn import QrCnn
from dbbd_cli.model.output import DeferredMetric, StepOutput
from dbbd_cli.model.weights import load_tensors


class Classifier(nn.Module):
    """A network with its loss: cross-entropy, smoothed only while training.

    Args:
        network: maps images `(B, 3, S, S)` to logits `(B, num_classes)`.
        label_smoothing: share of the target that is spread over all classes.

    In evaluation mode, the metrics include `f1`: counts `(2K,)` from which the F1 of each of K classes is computed. The
    first half counts the correct predictions of each class, the second half its samples plus its predictions.
    """

    def __init__(self, network: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Returns the mean loss and the number of correct predictions of images `(B, 3, S, S)`, labels `(B,)`."""
        logits = self.network(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if self.training else 0.0)
        predicted = logits.detach().argmax(dim=1)
        correct = predicted == labels
        metrics: dict[str, torch.Tensor | DeferredMetric] = {"accuracy": correct.sum()}
        if not self.training:
            num_classes = logits.shape[1]
            places = torch.cat([labels, labels + num_classes, predicted + num_classes])
            ones = torch.ones_like(correct, dtype=torch.float32)
            counts = torch.cat([correct.float(), ones, ones])
            metrics["f1"] = counts.new_zeros(2 * num_classes).index_add_(0, places, counts)
        return StepOutput(loss=loss, metrics=metrics, num_samples=len(labels), logits=logits)


def macro_f1(counts: Sequence[float]) -> float:
    """The mean F1 over the classes, from the sums of the counts of `Classifier`, `(2K,)`.

    A class that has neither samples nor predictions has no F1 and is left out of the mean.
    """
    num_classes = len(counts) // 2
    scores = [2 * hits / told for hits, told in zip(counts[:num_classes], counts[num_classes:], strict=True) if told]
    return sum(scores) / len(scores)


def build_network(name: str, *, num_classes: int, image_size: int, dropout: float, weights: str) -> nn.Module:
    """Builds an image classifier.

    Args:
        name: `qr_cnn`, or the name of a torchvision network.
        num_classes: number of logits.
        image_size: height and width of the input in pixels.
        dropout: dropout probability before linear layers.
        weights: `none` (random), `default` (downloaded, torchvision only) or the path of a state dict.

    Raises:
        ConfigError: the pretrained weights cannot be downloaded.
        CheckpointError: the file of weights cannot be read or does not fit.
    """
    if name == "qr_cnn":
        network: nn.Module = QrCnn(num_classes=num_classes, image_size=image_size, dropout=dropout)
    else:
        network = _torchvision_network(name, num_classes, dropout, pretrained=weights == "default")
    if weights not in ("none", "default"):
        load_weights(network, Path(weights))
    return network


def _torchvision_network(name: str, num_classes: int, dropout: float, *, pretrained: bool) -> nn.Module:
    # Imported here: qr_cnn needs none of it, and it takes more than a second.
    from torchvision import models

    if pretrained:
        _choose_download_folder()
    try:
        network = models.get_model(name, weights="DEFAULT" if pretrained else None, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"model.weights: the pretrained weights of {name} cannot be downloaded ({error})",
            hint="train from random weights with --set model.weights=none, "
            "or give a downloaded state dict with --set model.weights=PATH",
        ) from error
    if name.startswith("resnet"):
        features: int = network.fc.in_features
        network.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, num_classes))
    else:
        head: nn.Sequential = network.classifier
        for layer in head:
            if isinstance(layer, nn.Dropout):
                layer.p = dropout
        last = head[-1]
        assert isinstance(last, nn.Linear)
        head[-1] = nn.Linear(last.in_features, num_classes)
    return network


def _choose_download_folder() -> None:
    """Gives PyTorch a folder for downloads if there is no home folder: it would create one called `~` here."""
    if os.path.expanduser("~") == "~" and "XDG_CACHE_HOME" not in os.environ:  # noqa: PTH111 - Path.home() raises
        with suppress(OSError):
            os.environ.setdefault("TORCH_HOME", str(private_folder("dbbd") / "torch"))


def load_weights(network: nn.Module, path: Path) -> None:
    """Fills a network from a file: a state dict, or a checkpoint that holds one.

    A last layer for another number of classes stays random; everything else must fit exactly.

    Raises:
        CheckpointError: the file is missing, is not safe to read, or has other keys or shapes.
    """
    hint = "give a state dict of the same architecture, saved with torch.save(network.state_dict(), path)"
    content = load_tensors(path)
    state = _state_dict_in(content)
    if state is None:
        raise CheckpointError(f"model.weights: {path} holds no state dict", hint=hint)
    own = network.state_dict()
    # In our networks of the resnet family dropout stands before the last layer, so that its keys have another name.
    state = {
        (f"fc.1.{k[3:]}" if k.startswith("fc.") and "fc.1.weight" in own and k not in own else k): v
        for k, v in state.items()
    }
    # Counters that files of old versions lack, and that networks in use never read.
    state |= {k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state}
    output_layer = [key for key in list(own)[-2:] if key in state and state[key].shape != own[key].shape]
    state = {key: value for key, value in state.items() if key not in output_layer}
    findings = [f"missing: {key}" for key in own if key not in state and key not in output_layer]
    findings += [f"unknown: {key}" for key in state if key not in own]
    findings += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if findings:
        raise CheckpointError(f"model.weights: {path} does not fit the network", hint=hint, details=findings[:10])
    network.load_state_dict(state, strict=False)


def _state_dict_in(content: object) -> dict[str, torch.Tensor] | None:
    """The state dict of a bare network, of a checkpoint of ours, or of the usual wrappings."""
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        prefix = "network." if all(str(key).startswith("network.") for key in content) else ""
        return {str(key)[len(prefix) :]: value for key, value in content.items()}
    for key in ("module", "model_state_dict", "state_dict", "model"):
        if key in content:
            return _state_dict_in(content[key])
    return None
