"""Weights of DBBD in checkpoints of this tool and of the first implementation, and in bare state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.text import printable
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.weights import check_finite, load_tensors, mismatches

_DESCRIPTION = "description."
"""Prefix of what belongs to the description loss."""


def load_weights(module: DbbdPretraining, path: Path) -> None:
    """Load network and projection heads from a checkpoint of either implementation, or from a bare state dict.

    A teacher in the file is left out, and one of the network begins with the same weights. Prototypes are loaded only
    if there are as many in the file, and what belongs to the description loss only if it describes as much.

    Raises:
        CheckpointError: the file is missing, unsafe, not finite, or has other keys or shapes.
    """
    state = weights_in(load_tensors(path, objects=True), path)
    if state is None:
        raise CheckpointError(
            f"{path} contains no DBBD weights",
            hint="use a checkpoint of this tool, or one with encoder_state_dict and loss_fn_state_dict",
        )
    state, own = _without_teacher(state), _without_teacher(module.state_dict())
    for name in ("loss.region_prototypes", "loss.point_prototypes"):
        if name not in state or name not in own or state[name].shape != own[name].shape:
            state.pop(name, None)
            own.pop(name, None)
    parts = [{name: value for name, value in one.items() if name.startswith(_DESCRIPTION)} for one in (state, own)]
    if mismatches(*parts):
        state, own = (
            {name: value for name, value in one.items() if not name.startswith(_DESCRIPTION)} for one in (state, own)
        )
    if problems := mismatches(state, own):
        sizes = sizes_of(state) or {}
        suggestion = ", ".join(f"{name} {value}" for name, value in sizes.items() if name != "feature_dim")
        raise CheckpointError(
            f"{path} does not match the network",
            hint="set the section model of the configuration to the sizes that the checkpoint was trained with"
            + (f": {suggestion}" if suggestion else ""),
            details=problems[:10],
        )
    module.load_state_dict(state, strict=False)
    if module.teacher is not None:
        module.teacher.follow(module.encoder, module.loss, momentum=0.0)


def _without_teacher(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("teacher.")}


def weights_in(content: object, path: Path) -> dict[str, torch.Tensor] | None:
    """The weights in a file by their names in `DbbdPretraining`; None if there is no state dict.

    The first implementation registered modules in several places, so its state dicts contain weights several times.
    Duplicates must be equal.

    Args:
        content: content of the file.
        path: the file, for messages.

    Raises:
        CheckpointError: weights are not finite, or duplicates differ.
    """
    state = _state_dict_in(content)
    if state is None:
        return None
    check_finite(state, path)
    weights: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    for key, value in state.items():
        name = _own_name(key)
        other = weights.setdefault(name, value)
        origin = origins.setdefault(name, key)
        if value.dtype != other.dtype or value.shape != other.shape or not torch.equal(value, other):
            raise CheckpointError(
                f"{path}: {printable(key)} and {printable(origin)} are weights of the same layer, but differ",
                hint="the file is damaged, or its weights were edited: save the checkpoint again, or use another one",
            )
    return weights


def load_encoder(encoder: DbbdEncoder, path: Path) -> None:
    """Load the encoder alone from any file of weights that contains one.

    Raises:
        CheckpointError: the file is missing, unsafe, not finite, or has other keys or shapes.
    """
    state = weights_in(load_tensors(path, objects=True), path) or {}
    own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    if problems := mismatches(own, encoder.state_dict()):
        raise CheckpointError(
            f"model.weights: {path} does not match the encoder",
            hint="use a run of DBBD or of segmentation with the same sizes",
            details=problems[:10],
        )
    encoder.load_state_dict(own)


_ALIASES = (
    (r"encoder\.g2l_traversal\.(raw_projection|combine_projection|encoder|propagator|aggregator)\.", r"encoder.\1."),
    (r"encoder\.l2g_traversal\.(raw_projection|combine_projection|encoder|propagator|aggregator)\.", r"encoder.\1."),
    (r"encoder\.l2g_traversal\.projection\.", "encoder.raw_projection."),
    (r"loss\.(region|point)_loss\.projection_head\.", r"loss.\1_projection."),
)
"""Other names of the same modules in the first implementation, and their names here."""


def _own_name(key: str) -> str:
    for alias, name in _ALIASES:
        key = re.sub(f"^{alias}", name, key)
    return key


def sizes_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """The arguments of `DbbdPretraining`, inferred from the shapes of its weights; None if they are not its weights.

    Args:
        state: weights as `weights_in` returns them.
    """
    sizes = encoder_sizes_of(state)
    projection = state.get("loss.region_projection.layers.3.weight")
    if sizes is None or projection is None or projection.ndim != 2:
        return None
    return {**sizes, "projection_dim": projection.shape[0]}


def encoder_sizes_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """The arguments of `DbbdEncoder`, inferred from the shapes of its weights; None if they are not its weights.

    Args:
        state: weights as `weights_in` returns them, also of a network that contains the encoder as `encoder`.
    """
    prefix = "encoder.encoder.backbone.mlp."
    layers = sorted(
        int(name.split(".")[-2]) for name in state if re.fullmatch(rf"{re.escape(prefix)}\d+\.weight", name)
    )
    matrices = [state[f"{prefix}{layer}.weight"] for layer in layers if state[f"{prefix}{layer}.weight"].ndim == 2]
    others = ("encoder.raw_projection.mlp.0.weight", "encoder.propagator.mlp.0.weight")
    if len(matrices) < 2 or any(name not in state or state[name].ndim != 2 for name in others):
        return None
    raw, propagator = (state[name] for name in others)
    sizes: dict[str, Any] = {
        "feature_dim": raw.shape[1],
        "hidden_dim": raw.shape[0],
        "output_dim": matrices[-1].shape[0],
        "encoder_hidden_dims": [matrix.shape[0] for matrix in matrices[:-1]],
        "propagator_hidden_dim": propagator.shape[0],
    }
    if any(name.startswith("encoder.aggregator.attention.") for name in state):
        sizes["aggregation"] = "attention"  # max and mean have the same weights
    return sizes


def _state_dict_in(content: object) -> dict[str, torch.Tensor] | None:
    if isinstance(content, Mapping) and "module" in content:
        content = content["module"]
    if not isinstance(content, Mapping):
        return None
    encoder, loss = content.get("encoder_state_dict"), content.get("loss_fn_state_dict")
    if isinstance(encoder, Mapping) and isinstance(loss, Mapping):
        content = {f"encoder.{key}": value for key, value in _unwrapped(encoder).items()}
        content |= {f"loss.{key}": value for key, value in _unwrapped(loss).items()}
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return _unwrapped(content)
    return None


def _unwrapped(state: Mapping[Any, Any]) -> dict[str, Any]:
    """A state dict without the prefixes that DataParallel and torch.compile add to every name."""
    names = [str(key) for key in state]
    for wrapper in ("module.", "_orig_mod.", "module."):
        if names and all(name.startswith(wrapper) for name in names):
            names = [name.removeprefix(wrapper) for name in names]
    return dict(zip(names, state.values(), strict=True))
