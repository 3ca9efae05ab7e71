"""The DBBD network with its losses and metrics.

Legend: N points, C features per point, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
from dbbd_cli.model.dbbd.regions import PartialView, RegionBatch
from dbbd_cli.model.output import DeferredMetric, StepOutput

LocalView = tuple[torch.Tensor, torch.Tensor, PartialView]
"""Coordinates `(N, 3)`, features `(N, C)` and regions of a small piece of each scene."""


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
        second: PartialView | None = None,
        local: Sequence[LocalView] = (),
    ) -> StepOutput:
        """The loss of two views, `coord` `(N, 3)` and `feat` `(N, C)`, of the scenes of a batch.

        The metrics are sums over scenes. Those of level k end in `_level_k`, to be divided by `scenes_level_k`: not
        every batch has every level.

        Args:
            coord1: coordinates of view 1, for G2L.
            feat1: its features.
            coord2: coordinates of view 2, for L2G.
            feat2: its features.
            regions: the trees of view 1.
            second: the trees of view 2, if they differ.
            local: further views for L2G, each of which is compared with view 1.
        """
        top_down, bottom_up, losses = self.compare(coord1, feat1, coord2, feat2, regions, second, local)
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
        second: PartialView | None = None,
        local: Sequence[LocalView] = (),
    ) -> tuple[BranchFeatures, BranchFeatures, DbbdLosses]:
        """The features of both branches, G2L on view 1 and L2G on view 2, where they are compared, and all losses.

        The arguments are those of `forward`.
        """
        top_down = self.encoder.global_to_local(coord1, feat1, regions)
        if second is None:
            bottom_up = self.encoder.local_to_global(coord2, feat2, regions)
            groups = [level.offset for level in regions.levels]
            return top_down, bottom_up, self._losses(top_down, bottom_up, groups, regions)

        pairs = []
        first_point = 0
        for coord, feat, view in [(coord2, feat2, second), *local]:
            bottom_up = self.encoder.local_to_global(coord, feat, view.regions)
            num_points = len(view.regions.point)
            one, two = _in_common(top_down, bottom_up, view, slice(first_point, first_point + num_points))
            groups = [level.offset for level in view.shared]
            pairs.append((one, two, self._losses(one, two, groups, view.regions)))
            first_point += num_points
        one, two, losses = pairs[0]
        if local:
            totals = torch.stack([pair[2].total for pair in pairs])
            losses = replace(losses, total=totals.mean(), local=totals[1:].mean())
        return one, two, losses

    def _losses(
        self, top_down: BranchFeatures, bottom_up: BranchFeatures, offsets: Sequence[torch.Tensor], regions: RegionBatch
    ) -> DbbdLosses:
        """The losses of rows that belong together, of which scene s has those from `offsets[s]` on each level."""
        within = self.negatives == "scene"
        return self.loss(
            top_down.regions,
            bottom_up.regions,
            top_down.points,
            bottom_up.points,
            region_groups=[offset.diff().tolist() for offset in offsets] if within else None,
            point_groups=_points_of_scenes(regions) if within else None,
        )


def _in_common(
    top_down: BranchFeatures, bottom_up: BranchFeatures, view: PartialView, points: slice
) -> tuple[BranchFeatures, BranchFeatures]:
    """The features of the regions that both views have, row by row, and of the points compared, `points` of view 1."""
    first = [rows.index_select(0, level.first) for rows, level in zip(top_down.regions, view.shared, strict=False)]
    second = [rows.index_select(0, level.second) for rows, level in zip(bottom_up.regions, view.shared, strict=False)]
    return BranchFeatures(first, top_down.points[points]), BranchFeatures(second, bottom_up.points)


def _points_of_scenes(regions: RegionBatch) -> list[int]:
    """How many of the picked points, which are in scene order, each scene has."""
    first = torch.searchsorted(regions.point, regions.first_point)
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
    if losses.local is not None:
        values["local_loss"] = losses.local.detach()
    for number, level in losses.levels.items():
        values[f"loss_level_{number}"] = level.loss.detach()
        values[f"chance_level_{number}"] = level.chance
        values[f"top1_level_{number}"] = level.top1
        values[f"scenes_level_{number}"] = 1.0
    return values


def _lower_rank(grams: torch.Tensor) -> float:
    """The effective rank of the worse branch, from the Gram matrices `(2, D, D)` of both."""
    return min(effective_rank(gram) for gram in grams)
