"""The description loss: features predict hand-made features of what a view shows.

After Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (2022), where descriptors of
hidden parts of pictures are predicted. Here, the features of a point are encoded piecewise linearly, and a region is
described by the mean code of all its points, those that the view lost included.

Legend: N points, S picked points, R regions of a level, L levels, C features of a point, P pieces of a feature, D
channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.dbbd.encoder import BranchFeatures
from dbbd_cli.model.dbbd.layers import full_precision
from dbbd_cli.model.dbbd.regions import RegionBatch, WholeRegions, region_means
from dbbd_cli.model.numeric_pieces import PiecewiseCodes
from dbbd_cli.model.processes import added, counting, means_of_rows

_NUM_PIECES = 8
_POINT_PART = 2.0
"""Weight of the codes of points themselves; each level of each branch, and the surroundings, have 1."""


@dataclass(frozen=True)
class Described:
    """What the features of the two views are to describe.

    Attributes:
        features: `(N, C)` of the points without any augmentation.
        whole: the regions with all their points; None: the views have all points.
    """

    features: torch.Tensor
    whole: WholeRegions | None = None


class DescriptionLoss(nn.Module):
    """Linear heads on normalized features, and the error of what they predict.

    The targets are standardized codes: of a region, the mean over its points; of a point, its own, and in the branch
    G2L also those of the regions below the root that contain it.

    Args:
        input_dim: D of regions and points.
        groups: number of features of each group, C in all. Groups count equally, however many features they have.
        num_levels: L.
    """

    share: torch.Tensor

    def __init__(self, *, input_dim: int, groups: Sequence[int], num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.codes = PiecewiseCodes(sum(groups), _NUM_PIECES)
        codes = self.codes.num_codes
        share = [1.0 / (len(groups) * size * _NUM_PIECES) for size in groups for _ in range(size * _NUM_PIECES)]
        self.register_buffer("share", torch.tensor(share), persistent=False)
        self.region_heads = nn.ModuleList(nn.Linear(input_dim, codes) for _ in range(2 * num_levels))
        self.point_heads = nn.ModuleList(nn.Linear(input_dim, codes) for _ in range(2))
        self.surroundings_head = nn.Linear(input_dim, (num_levels - 1) * codes)

    def forward(
        self, down: BranchFeatures, up: BranchFeatures, trees: Sequence[RegionBatch], described: Described
    ) -> torch.Tensor:
        """The weighted mean of the squared errors of all levels and of the points, of both branches.

        Args:
            down: the features of G2L on view 1.
            up: the features of L2G on view 2.
            trees: the regions of each of the two views.
            described: what they are to describe.
        """
        whole = described.whole
        with torch.no_grad(), torch.autocast(described.features.device.type, enabled=False):
            regions = trees[0] if whole is None else whole.regions
            targets = region_means(described.features, regions, self.codes)
            points = [self.codes(described.features[view.point]) for view in trees]
        errors, weights = [], []
        for branch, features in enumerate((down, up)):
            missing = [features.points.new_zeros(0, dtype=self.share.dtype)] * (self.num_levels - len(features.regions))
            for number, rows in enumerate(features.regions):
                head = self.region_heads[branch * self.num_levels + number]
                target = targets[number]
                target = target if whole is None else target.index_select(0, whole.rows[branch][number])
                errors.append(self._errors(head(_normalized(rows)), target))
            head = self.point_heads[branch]
            errors += [*missing, self._errors(head(_normalized(features.points)), points[branch])]
            weights += [1.0] * self.num_levels + [_POINT_PART]
        means = means_of_rows(errors)
        if self.num_levels > 1 and means[1] is not None:  # there are regions below the root, in any process
            means.append(self._surroundings_error(down.points, trees[0], targets, whole))
            weights.append(1.0)
        found = [(mean, weight) for mean, weight in zip(means, weights, strict=True) if mean is not None]
        total = sum(weight for _, weight in found)
        return torch.stack([mean * (weight / total) for mean, weight in found]).sum()

    def _surroundings_error(
        self, points: torch.Tensor, regions: RegionBatch, targets: Sequence[torch.Tensor], whole: WholeRegions | None
    ) -> torch.Tensor:
        """The mean error of the codes of the regions that contain the picked points, from their features `(S, D)`."""
        predicted = self.surroundings_head(_normalized(points)).unflatten(1, (self.num_levels - 1, -1))
        total = count = predicted.new_zeros((), dtype=self.share.dtype)
        for number, row in enumerate(regions.rows_of_points()[1:], start=1):
            exists, row = row >= 0, row.clamp(min=0)
            row = row if whole is None else whole.rows[0][number].index_select(0, row)
            errors = self._errors(predicted[:, number - 1], targets[number].index_select(0, row))
            total, count = total + (errors * exists).sum(), count + exists.sum()
        return counting(total) / added(count).clamp(min=1)

    def _errors(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The squared error of each row, `(n,)`, averaged within groups, then over groups."""
        return ((full_precision(predicted) - target).square() * self.share).sum(1)


def _normalized(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[1:])
