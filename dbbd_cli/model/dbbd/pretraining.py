"""The DBBD network with its losses and metrics.

Legend: N points, C features per point, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

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


class DbbdPretraining(nn.Module):
    """Network and losses, with the arguments of `DbbdEncoder` and `DbbdLoss`.

    Args:
        negatives: `batch`: all other rows of a batch are negatives; `scene`: only those of the same scene.
    """

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
        relative_propagation: bool = False,
        symmetric: bool = False,
        negatives: str = "batch",
        level_weights: Sequence[float] = (1.0,),
        relative_to_chance: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.encoder = DbbdEncoder(
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            output_dim=output_dim,
            encoder_hidden_dims=encoder_hidden_dims,
            propagator_hidden_dim=propagator_hidden_dim,
            aggregation=aggregation,
            pooling=pooling,
            num_heads=num_heads,
            relative_propagation=relative_propagation,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.loss = DbbdLoss(
            input_dim=output_dim,
            projection_dim=projection_dim,
            temperature=temperature,
            region_weight=region_weight,
            point_weight=point_weight,
            symmetric=symmetric,
            level_weights=level_weights,
            relative_to_chance=relative_to_chance,
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

        The metrics are sums over scenes. Those of level k end in `_level_k`, to be divided by `scenes_level_k`: not
        every batch has every level.
        """
        top_down, bottom_up, losses = self.compare(coord1, feat1, coord2, feat2, regions)
        # In half precision, a collapse would be hidden by rounding.
        with torch.no_grad(), torch.autocast(losses.total.device.type, enabled=False):
            values = _metrics(losses, top_down, bottom_up)
            metrics: dict[str, torch.Tensor | DeferredMetric] = {
                # Plain numbers, too, become tensors on the device, where they are summed without synchronization.
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
        within = self.negatives == "scene"
        losses = self.loss(
            top_down.regions,
            bottom_up.regions,
            top_down.points,
            bottom_up.points,
            region_groups=[level.offset.diff().tolist() for level in regions.levels] if within else None,
            point_groups=_points_of_scenes(regions) if within else None,
        )
        return top_down, bottom_up, losses


def _points_of_scenes(regions: RegionBatch) -> list[int]:
    """How many of the picked points, which are in scene order, each scene has."""
    first = torch.searchsorted(regions.point, regions.levels[0].points.start)
    return first.diff(append=first.new_tensor([len(regions.point)])).tolist()


def _metrics(
    losses: DbbdLosses, top_down: BranchFeatures, bottom_up: BranchFeatures
) -> dict[str, torch.Tensor | float]:
    """The metrics of a batch as means over its scenes, without the effective rank."""
    deviations = [feature_std(branch.points) for branch in (top_down, bottom_up)]
    values: dict[str, torch.Tensor | float] = {
        "region_loss": losses.region.detach(),
        "point_loss": losses.point.detach(),
        "point_chance": losses.point_chance,
        "point_top1": losses.point_top1,
        "alignment": alignment(losses.query, losses.key),
        "uniformity": (uniformity(losses.query) + uniformity(losses.key)) / 2,
        # Of the worse branch, so that a collapse of one is visible.
        "feature_std": torch.minimum(*deviations),
    }
    for number, level in losses.levels.items():
        values[f"loss_level_{number}"] = level.loss.detach()
        values[f"chance_level_{number}"] = level.chance
        values[f"top1_level_{number}"] = level.top1
        values[f"scenes_level_{number}"] = 1.0
    return values


def _lower_rank(grams: torch.Tensor) -> float:
    """The effective rank of the worse branch, from the Gram matrices `(2, D, D)` of both."""
    return min(effective_rank(gram) for gram in grams)
