"""The module that owns the DBBD network and its losses, and reading weights into it.

Legend: N points, C features per point, D channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.text import printable
from dbbd_cli.model.dbbd.encoder import BranchFeatures, DbbdEncoder
from dbbd_cli.model.dbbd.loss import (
    DbbdLoss,
    DbbdLosses,
    alignment,
    effective_rank,
    feature_std,
    gram_matrix,
    uniformity,
)
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.model.output import DeferredMetric, StepOutput
from dbbd_cli.model.weights import check_finite, load_tensors


class DbbdPretraining(nn.Module):
    """Network and losses; arguments as of `DbbdEncoder` and `DbbdLoss`."""

    def __init__(
        self,
        *,
        feature_dim: int = 3,
        hidden_dim: int = 96,
        output_dim: int = 96,
        encoder_hidden_dims: Sequence[int] = (64, 128),
        propagator_hidden_dim: int = 128,
        projection_dim: int = 128,
        aggregation: str = "max",
        pooling: str = "max",
        num_heads: int = 4,
        temperature: float = 0.1,
        region_weight: float = 1.0,
        point_weight: float = 0.5,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = DbbdEncoder(
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            output_dim=output_dim,
            encoder_hidden_dims=encoder_hidden_dims,
            propagator_hidden_dim=propagator_hidden_dim,
            aggregation=aggregation,
            pooling=pooling,
            num_heads=num_heads,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.loss = DbbdLoss(
            input_dim=output_dim,
            projection_dim=projection_dim,
            temperature=temperature,
            region_weight=region_weight,
            point_weight=point_weight,
        )

    def forward(
        self,
        coord1: torch.Tensor,
        feat1: torch.Tensor,
        coord2: torch.Tensor,
        feat2: torch.Tensor,
        regions: RegionBatch,
    ) -> StepOutput:
        """The loss of two views, `coord` `(N, 3)` and `feat` `(N, C)`, of the scenes of a batch.

        The metrics are sums over scenes. Those of level k end in `_level_k`; `scenes_level_k` is what to divide them
        by, for not every batch has every level.
        """
        top_down, bottom_up, losses = self.compare(coord1, feat1, coord2, feat2, regions)
        # In half precision a collapse would look like rounding.
        with torch.no_grad(), torch.autocast(losses.total.device.type, enabled=False):
            values = _metrics(losses, top_down, bottom_up)
            metrics: dict[str, torch.Tensor | DeferredMetric] = {
                # Numbers too become values on the device, where they are summed without waiting for it.
                name: (value if isinstance(value, torch.Tensor) else losses.total.new_full((), value))
                * regions.num_scenes
                for name, value in values.items()
            }
            grams = torch.stack([gram_matrix(branch.points) for branch in (top_down, bottom_up)])
            metrics["effective_rank"] = DeferredMetric(grams, _lower_rank)
        return StepOutput(loss=losses.total, metrics=metrics, num_samples=regions.num_scenes)

    def compare(
        self,
        coord1: torch.Tensor,
        feat1: torch.Tensor,
        coord2: torch.Tensor,
        feat2: torch.Tensor,
        regions: RegionBatch,
    ) -> tuple[BranchFeatures, BranchFeatures, DbbdLosses]:
        """The features of both branches, G2L on view 1 and L2G on view 2, and all losses."""
        top_down = self.encoder.global_to_local(coord1, feat1, regions)
        bottom_up = self.encoder.local_to_global(coord2, feat2, regions)
        return top_down, bottom_up, self.loss(top_down.regions, bottom_up.regions, top_down.points, bottom_up.points)


def _metrics(
    losses: DbbdLosses, top_down: BranchFeatures, bottom_up: BranchFeatures
) -> dict[str, torch.Tensor | float]:
    """What is logged of a batch, each as a mean; without the effective rank."""
    deviations = [feature_std(branch.points) for branch in (top_down, bottom_up)]
    values: dict[str, torch.Tensor | float] = {
        "region_loss": losses.region.detach(),
        "point_loss": losses.point.detach(),
        "point_chance": losses.point_chance,
        "point_top1": losses.point_top1,
        "alignment": alignment(losses.query, losses.key),
        "uniformity": (uniformity(losses.query) + uniformity(losses.key)) / 2,
        # The branch that is worse off: a collapse of one shows.
        "feature_std": torch.minimum(*deviations),
    }
    for number, level in losses.levels.items():
        values[f"loss_level_{number}"] = level.loss.detach()
        values[f"chance_level_{number}"] = level.chance
        values[f"top1_level_{number}"] = level.top1
        values[f"scenes_level_{number}"] = 1.0
    return values


def _lower_rank(grams: torch.Tensor) -> float:
    """The effective rank of the branch that is worse off, from the Gram matrices `(2, D, D)` of both."""
    return min(effective_rank(gram) for gram in grams)


def load_pretraining(module: DbbdPretraining, path: Path) -> None:
    """Fills network and heads from a checkpoint of the first implementation, one of this tool, or a bare state dict.

    Raises:
        CheckpointError: the file is missing, not safe to read, not finite, or has other keys or shapes.
    """
    state = pretraining_weights(load_tensors(path, objects=True), path)
    if state is None:
        raise CheckpointError(
            f"{path} holds no weights of DBBD",
            hint="give a checkpoint of this tool, or one with encoder_state_dict and loss_fn_state_dict",
        )
    own = module.state_dict()
    findings = [f"missing: {key}" for key in own if key not in state]
    findings += [f"unknown: {key}" for key in state if key not in own]
    findings += [
        f"{key}: shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if findings:
        sizes = sizes_of(state) or {}
        told = ", ".join(f"{name} {value}" for name, value in sizes.items() if name != "feature_dim")
        raise CheckpointError(
            f"{path} does not fit the network",
            hint="set the section model of the configuration to the sizes that the checkpoint was trained with"
            + (f": {told}" if told else ""),
            details=findings[:10],
        )
    module.load_state_dict(state)


def pretraining_weights(content: object, path: Path) -> dict[str, torch.Tensor] | None:
    """The weights in a file, by their names in `DbbdPretraining`; None if there is no state dict.

    The first implementation registered its modules in several places, and its state dicts contain their weights once
    for each. Duplicates must be equal.

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
                f"{path}: {printable(key)} and {printable(origin)} are weights of the same layer, and differ",
                hint="the file is damaged, or its weights were edited: save the checkpoint again, or use another one",
            )
    return weights


_ALIASES = (
    (r"encoder\.g2l_traversal\.(raw_projection|combine_projection|encoder|propagator|aggregator)\.", r"encoder.\1."),
    (r"encoder\.l2g_traversal\.(raw_projection|combine_projection|encoder|propagator|aggregator)\.", r"encoder.\1."),
    (r"encoder\.l2g_traversal\.projection\.", "encoder.raw_projection."),
    (r"loss\.(region|point)_loss\.projection_head\.", r"loss.\1_projection."),
)
"""Duplicate names of the first implementation's modules, and their names here."""


def _own_name(key: str) -> str:
    for alias, name in _ALIASES:
        key = re.sub(f"^{alias}", name, key)
    return key


def sizes_of(state: Mapping[str, torch.Tensor]) -> dict[str, Any] | None:
    """The arguments of `DbbdPretraining`, inferred from the shapes of its weights; None if they are not its weights.

    Args:
        state: weights as `pretraining_weights` returns them.
    """
    prefix = "encoder.encoder.backbone.mlp."
    layers = sorted(
        int(name.split(".")[-2]) for name in state if re.fullmatch(rf"{re.escape(prefix)}\d+\.weight", name)
    )
    matrices = [state[f"{prefix}{layer}.weight"] for layer in layers if state[f"{prefix}{layer}.weight"].ndim == 2]
    others = (
        "encoder.raw_projection.mlp.0.weight",
        "encoder.propagator.mlp.0.weight",
        "loss.region_projection.layers.3.weight",
    )
    if len(matrices) < 2 or any(name not in state or state[name].ndim != 2 for name in others):
        return None
    raw, propagator, projection = (state[name] for name in others)
    sizes: dict[str, Any] = {
        "feature_dim": raw.shape[1],
        "hidden_dim": raw.shape[0],
        "output_dim": matrices[-1].shape[0],
        "encoder_hidden_dims": [matrix.shape[0] for matrix in matrices[:-1]],
        "propagator_hidden_dim": propagator.shape[0],
        "projection_dim": projection.shape[0],
    }
    if any(name.startswith("encoder.aggregator.attention.") for name in state):
        sizes["aggregation"] = "attention"  # max and mean have the same weights
    return sizes


def _state_dict_in(content: object) -> dict[str, torch.Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    encoder, loss = content.get("encoder_state_dict"), content.get("loss_fn_state_dict")
    if isinstance(encoder, Mapping) and isinstance(loss, Mapping):
        content = {f"encoder.{key}": value for key, value in _unwrapped(encoder).items()}
        content |= {f"loss.{key}": value for key, value in _unwrapped(loss).items()}
    elif "module" in content:
        return _state_dict_in(content["module"])
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
