"""Batches of labeled scenes whose picked points all have a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.cache import PreparedScene
from dbbd_cli.tasks.scene_batches import SceneDataset, sample_points


class LabeledDataset(SceneDataset):
    """The scenes of a split with their labels, a batch at a time.

    Args:
        labels: the labels that are classes.
        arguments: those of `SceneDataset`; `point_samples` are drawn from the points with these labels.
    """

    def __init__(self, *arguments: Any, labels: Sequence[int], **options: Any) -> None:
        super().__init__(*arguments, with_segment=True, **options)
        self.labels = np.array(labels)

    def _pick(self, scenes: Sequence[PreparedScene], epoch: int, samples: np.ndarray) -> np.ndarray | None:
        if self.point_samples is None:
            return None
        starts = np.cumsum([0, *(scene.num_points for scene in scenes[:-1])])
        labeled = [
            start + np.flatnonzero(np.isin(scene.segment, self.labels))
            for start, scene in zip(starts, scenes, strict=True)
            if scene.segment is not None
        ] or [np.empty(0, np.int64)]
        sizes = [len(points) for points in labeled]
        every = np.concatenate(labeled)
        if not len(every):
            return starts[:1]  # one point, which does not count
        known = [place for place, scene in enumerate(scenes) if scene.segment is not None]
        chosen = sample_points(sizes, self.points_per_scene, seed=self.seed, epoch=epoch, samples=samples[known])
        return every if chosen is None else every[chosen]
