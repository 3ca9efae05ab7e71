"""Batches of scenes of whose points the views have only some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.cache import PreparedScene
from dbbd_cli.data.scenes.cuts import Cuts, kept_points
from dbbd_cli.model.dbbd.regions import (
    PartialView,
    RegionBatch,
    WholeRegions,
    build_partial_views,
    build_whole_regions,
)
from dbbd_cli.tasks.scene_batches import SceneDataset, sample_points


class CutDataset(SceneDataset):
    """The scenes of a split, a batch at a time, each cut differently for each of its views.

    `regions` of a batch are those of the first view, and `partial` the others: the second, then the local ones.
    `point_samples` are drawn for each of these from the points that the first view has too.

    Args:
        cuts: what the views lose.
        with_whole: whether batches have the whole regions too.
        arguments: those of `SceneDataset`.
    """

    def __init__(self, *arguments: Any, cuts: Cuts, with_whole: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cuts = cuts
        self.with_whole = with_whole

    def _regions(
        self, scenes: Sequence[PreparedScene], epoch: int, samples: np.ndarray
    ) -> tuple[RegionBatch, tuple[PartialView, ...], WholeRegions | None]:
        parts = [
            kept_points(scene.coord, scene.tree, self.cuts, seed=self.seed, epoch=epoch, sample=int(sample))
            for scene, sample in zip(scenes, samples, strict=True)
        ]
        keep = [np.concatenate(masks) for masks in zip(*parts, strict=True)]
        trees, sizes = [scene.tree for scene in scenes], [scene.num_points for scene in scenes]
        points = [self._common(sizes, keep[0] & other, epoch, samples) for other in keep[1:]]
        whole = build_whole_regions(trees, sizes, keep[:2]) if self.with_whole else None
        return *build_partial_views(trees, sizes, keep, points), whole

    def _common(self, sizes: Sequence[int], common: np.ndarray, epoch: int, samples: np.ndarray) -> np.ndarray:
        """The numbers of the points to compare, sampled from those that two views have in `common` `(N,)`."""
        points = np.flatnonzero(common)
        if self.point_samples is None:
            return points
        counts = [int(part.sum()) for part in np.split(common, np.cumsum(sizes)[:-1])]
        chosen = sample_points(counts, self.points_per_scene, seed=self.seed, epoch=epoch, samples=samples)
        return points if chosen is None else points[chosen]
