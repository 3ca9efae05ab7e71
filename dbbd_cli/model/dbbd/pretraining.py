"""The DBBD network with its losses and metrics.

Legend: N points, C features per point, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from dbbd_cli.model.dbbd.description import Described, DescriptionLoss
from dbbd_cli.model.dbbd.encoder import BranchFeatures, DbbdEncoder
from dbbd_cli.model.dbbd.loss import (
    DbbdLoss,
    DbbdLosses,
    Projected,
    Rows,
    alignment,
    effective_rank,
    feature_std,
    gram_matrix,
    uniformity,
)
from dbbd_cli.model.dbbd.regions import PartialView, RegionBatch
from dbbd_cli.model.dbbd.teacher import Teacher
from dbbd_cli.model.output import DeferredMetric, StepOutput
from dbbd_cli.model.processes import gathered, gathered_levels, mean_of_part, once, part_of_mean, part_of_whole

LocalView = tuple[torch.Tensor, torch.Tensor, PartialView]
"""Coordinates `(N, 3)`, features `(N, C)` and regions of a small piece of each scene."""


class DbbdPretraining(nn.Module):
    """Network and losses.

    Args:
        encoder: the two branches.
        loss: what compares them.
        symmetric: whether each of the two branches is the query in turn; by default, only G2L is.
        negatives: `batch`: all other rows of a batch are negatives; `scene`: only those of the same scene; `local`:
            only those of the same process, if several share the batch.
        momentum: share that an exponential moving average of the network, the teacher, keeps in each training pass; the
            keys then come from it, without gradient. 0: no teacher.
        description: the description loss, if there is one.
        description_weight: its weight.
    """

    skips_parameters = True
    """Not every batch has every level."""

    def __init__(
        self,
        encoder: DbbdEncoder,
        loss: DbbdLoss,
        *,
        symmetric: bool = False,
        negatives: str = "batch",
        momentum: float = 0.0,
        description: DescriptionLoss | None = None,
        description_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if loss.region_prototypes is not None and not momentum:
            raise ValueError("prototypes need a teacher, which assigns rows to them: a momentum greater than 0")
        self.encoder = encoder
        self.loss = loss
        self.symmetric = symmetric
        self.negatives = negatives
        self.momentum = momentum
        self.teacher = Teacher(encoder, loss) if momentum else None
        self.description = description
        self.description_weight = description_weight

    def forward(
        self,
        coord1: torch.Tensor,
        feat1: torch.Tensor,
        coord2: torch.Tensor,
        feat2: torch.Tensor,
        regions: RegionBatch,
        second: PartialView | None = None,
        local: Sequence[LocalView] = (),
        described: Described | None = None,
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
            described: what the features of the two views are to describe, if there is a description loss.
        """
        top_down, bottom_up, losses = self.compare(coord1, feat1, coord2, feat2, regions, second, local, described)
        # In half precision, a collapse would be hidden by rounding.
        with torch.no_grad(), torch.autocast(losses.total.device.type, enabled=False):
            points = [branch.points for branch in (top_down, bottom_up)]
            if self.negatives != "local":
                points = [gathered(rows) for rows in points]
            values = _metrics(losses, points)
            metrics: dict[str, torch.Tensor | DeferredMetric] = {
                # Plain numbers, too, become tensors on the device, where they are summed without synchronization.
                name: (value if isinstance(value, torch.Tensor) else losses.total.new_full((), value))
                * regions.num_scenes
                for name, value in values.items()
            }
            grams = torch.stack([gram_matrix(rows) for rows in points])
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
        described: Described | None = None,
    ) -> tuple[BranchFeatures, BranchFeatures, DbbdLosses]:
        """The features of both branches, G2L on view 1 and L2G on view 2, where they are compared, and all losses.

        The arguments are those of `forward`.
        """
        if self.training and self.teacher is not None:
            self.teacher.follow(self.encoder, self.loss, self.momentum)
        # Keys of local views come from the whole view alone: a teacher does not see them.
        needs_down = self.symmetric or bool(local)
        down = self._branch(DbbdEncoder.global_to_local, (coord1, feat1, regions), student=True, teacher=needs_down)
        found, picked = [], 0
        for number, (coord, feat, view) in enumerate([(coord2, feat2, second), *local]):
            trees = regions if view is None else view.regions
            is_query = self.teacher is None or self.symmetric or number > 0
            needs_up = is_query or self.description is not None
            inputs = (coord, feat, trees)
            up = self._branch(DbbdEncoder.local_to_global, inputs, student=needs_up, teacher=number == 0)
            if number == 0:
                views = (down.student, up.student), (regions, trees)
            up = up if is_query else replace(up, student=None)
            points = slice(picked, picked + len(trees.point))
            picked = points.stop
            if view is None:
                offsets, one, two = [level.offset for level in trees.levels], down, up
            else:
                offsets = [level.offset for level in view.shared]
                one = down.rows([level.first for level in view.shared], points)
                two = up.rows([level.second for level in view.shared], slice(None))
            found.append((one, two, self._losses(one, two, offsets, trees)))
        one, two, losses = found[0]
        if local:
            totals = torch.stack([part[2].total for part in found])
            losses = replace(losses, total=totals.mean(), local=totals[1:].mean())
        part = part_of_mean if self.negatives == "local" else part_of_whole
        losses = replace(losses, total=part(losses.total))
        if self.description is not None:
            losses = self._with_description(losses, *views, described)
        return one.features, two.features, losses

    def _with_description(
        self,
        losses: DbbdLosses,
        branches: tuple[BranchFeatures | None, BranchFeatures | None],
        trees: tuple[RegionBatch, RegionBatch],
        described: Described | None,
    ) -> DbbdLosses:
        """The losses with that of the description of both views."""
        down, up = branches
        assert self.description is not None
        assert down is not None
        assert up is not None
        if described is None:
            raise ValueError("the description loss needs the features to describe")
        loss = self.description(down, up, trees, described)
        return replace(losses, total=losses.total + self.description_weight * loss, description=loss)

    def _branch(
        self, run: _Run, inputs: tuple[torch.Tensor, torch.Tensor, RegionBatch], *, student: bool, teacher: bool
    ) -> _Branch:
        """The features of a branch, of the network itself and of its teacher, if there is one."""
        own = run(self.encoder, *inputs) if student else None
        if not teacher or self.teacher is None:
            return _Branch(own, None)
        with torch.no_grad():
            return _Branch(own, run(self.teacher.encoder, *inputs))

    def _losses(self, down: _Branch, up: _Branch, offsets: Sequence[torch.Tensor], regions: RegionBatch) -> DbbdLosses:
        """The losses of rows that belong together, of which scene s has those from `offsets[s]` on each level.

        Each branch of the network that was computed is a query, if there is a key for it.
        """
        within = self.negatives == "scene"
        # If only the description is learned, these are only logged: their gradient would be a third of the step.
        is_learned = self.loss.region_weight > 0 or self.loss.point_weight > 0
        with torch.set_grad_enabled(is_learned and torch.is_grad_enabled()):
            pairs = self._pairs(down, up)
            if self.negatives != "local":
                # Each of several processes computes the loss of all rows, and the gradient of its own.
                pairs = [(_whole(query), _whole(key)) for query, key in pairs]
            return self.loss(
                pairs,
                region_groups=_rows_of_scenes(offsets) if within else None,
                point_groups=_points_of_scenes(regions) if within else None,
            )

    def _pairs(self, down: _Branch, up: _Branch) -> list[tuple[Projected, Projected]]:
        """The pairs of queries and keys."""
        if self.teacher is None:
            one, two = self.loss.project(down.features, up.features)
            return [(one, two), (two, one)] if self.symmetric else [(one, two)]
        both = [(query.student, key.teacher) for query, key in ((down, up), (up, down))]
        pairs = [(query, key) for query, key in both if query is not None and key is not None]
        with torch.no_grad():
            keys = self.teacher.loss.project(*(key for _, key in pairs))
        return list(zip(self.loss.project(*(query for query, _ in pairs)), keys, strict=True))


_Run = Callable[[DbbdEncoder, torch.Tensor, torch.Tensor, RegionBatch], BranchFeatures]
"""A branch of an encoder."""


@dataclass(frozen=True)
class _Branch:
    """The features of a branch, where they are needed.

    Attributes:
        student: of the network itself.
        teacher: of its teacher.
    """

    student: BranchFeatures | None
    teacher: BranchFeatures | None

    @property
    def features(self) -> BranchFeatures:
        """Those of the network itself, if there are any."""
        features = self.teacher if self.student is None else self.student
        assert features is not None
        return features

    def rows(self, regions: Sequence[torch.Tensor], points: slice) -> _Branch:
        """The features of these regions, rows `(R,)` of each level, and points."""

        def of(features: BranchFeatures | None) -> BranchFeatures | None:
            if features is None:
                return None
            chosen = [level.index_select(0, rows) for level, rows in zip(features.regions, regions, strict=False)]
            return BranchFeatures(chosen, features.points[points])

        return _Branch(of(self.student), of(self.teacher))


def _whole(rows: Projected) -> Projected:
    """The rows of all processes."""
    vectors = gathered_levels([level.vectors for level in rows.regions])
    regions, points = (
        None if part.prototypes is None else once(part.prototypes) for part in (rows.regions[0], rows.points)
    )
    return Projected([Rows(level, regions) for level in vectors], Rows(gathered(rows.points.vectors), points))


def _rows_of_scenes(offsets: Sequence[torch.Tensor]) -> list[list[int]]:
    """How many rows of each level each scene has."""
    return [rows.tolist() for rows in gathered_levels([offset.diff() for offset in offsets])]


def _points_of_scenes(regions: RegionBatch) -> list[int]:
    """How many of the picked points, which are in scene order, each scene has."""
    first = torch.searchsorted(regions.point, regions.first_point)
    return gathered(first.diff(append=first.new_tensor([len(regions.point)]))).tolist()


def _metrics(losses: DbbdLosses, points: Sequence[torch.Tensor]) -> dict[str, torch.Tensor | float]:
    """The metrics of a batch as means over its scenes, without the effective rank.

    Args:
        losses: the losses.
        points: features `(S, D)` of the picked points, of both branches.
    """
    deviations = [feature_std(rows) for rows in points]
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
    if losses.description is not None:
        values["description_loss"] = mean_of_part(losses.description.detach())
    for number, level in losses.levels.items():
        values[f"loss_level_{number}"] = level.loss.detach()
        values[f"chance_level_{number}"] = level.chance
        values[f"top1_level_{number}"] = level.top1
        values[f"scenes_level_{number}"] = 1.0
    return values


def _lower_rank(grams: torch.Tensor) -> float:
    """The effective rank of the worse branch, from the Gram matrices `(2, D, D)` of both."""
    return min(effective_rank(gram) for gram in grams)
