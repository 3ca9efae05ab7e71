"""Batches of prepared scenes: concatenated points, and region trees as index tensors.

Legend: B scenes of the batch, N points of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.data.random_numbers import POINTS, uniform
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.model.dbbd.regions import PartialView, RegionBatch, WholeRegions, build_regions


class PointBatch(NamedTuple):
    """A batch from the loader.

    Attributes:
        coord: `(N, 3)` float32, scene by scene.
        normal: `(N, 3)` float32.
        color: `(N, 3)` uint8, or None if not needed.
        segment: `(N,)` int32, -1 if the class is unknown, or None if not needed.
        geometry: `(N, 29)` float16, or None if not needed.
        properties: `(N, P)` float32, or None if not needed.
        num_points: `(B,)` int64, points of each scene.
        regions: the region trees, and the points that the point loss compares.
        partial: further views of some of the points, whose points and regions are compared with those of `regions`.
        whole: the regions with all points of the scenes, or None if not needed.
        samples: `(B,)` int64, index of each scene in its split.
        epoch: `()` int64.
    """

    coord: torch.Tensor
    normal: torch.Tensor
    color: torch.Tensor | None
    segment: torch.Tensor | None
    geometry: torch.Tensor | None
    properties: torch.Tensor | None
    num_points: torch.Tensor
    regions: RegionBatch
    samples: torch.Tensor
    epoch: torch.Tensor
    partial: tuple[PartialView, ...] = ()
    whole: WholeRegions | None = None


class SceneDataset:
    """The scenes of a split from the cache, a batch at a time.

    Args:
        refs: the scenes.
        settings: how they are prepared.
        cache_dir: folder of the caches.
        point_samples: maximum points of a batch that are picked, as many of each scene; None: all, in order.
        with_color: whether to load colors, which every scene must have.
        with_segment: whether to load labels.
        seed: seed of the sampling of points.
    """

    batch_size = 1
    """Scenes of a batch, of all processes together."""

    def __init__(
        self,
        refs: Sequence[SceneRef],
        settings: SceneSettings,
        cache_dir: Path,
        *,
        point_samples: int | None,
        with_color: bool,
        with_segment: bool = False,
        seed: int,
    ) -> None:
        self.refs = list(refs)
        self.settings = settings
        self.cache_dir = cache_dir
        self.point_samples = point_samples
        self.with_color = with_color
        self.with_segment = with_segment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.refs)

    def __getitems__(self, keys: list[Key]) -> PointBatch:
        # Mapped again for each batch: thousands of open scenes would exceed the limit of open files.
        scenes = [prepared_scene(self.refs[index], self.settings, self.cache_dir) for _, index in keys]
        samples = np.array([index for _, index in keys], dtype=np.int64)
        epoch = keys[0][0]
        regions, partial, whole = self._regions(scenes, epoch, samples)
        batch = self.batch(scenes, regions=regions)
        return batch._replace(
            samples=torch.from_numpy(samples), epoch=torch.tensor(epoch), partial=partial, whole=whole
        )

    def batch(self, scenes: Sequence[PreparedScene], *, regions: RegionBatch | None = None) -> PointBatch:
        """Scenes as a batch, even if they are not in the split.

        Args:
            scenes: at least one scene, prepared with `settings`.
            regions: their trees; None: with all points picked.
        """
        num_points = [scene.num_points for scene in scenes]
        return PointBatch(
            coord=_joined([scene.coord for scene in scenes]),
            normal=_joined([scene.normal for scene in scenes]),
            color=_joined([_required(scene.color) for scene in scenes]) if self.with_color else None,
            segment=_joined([_labels(scene) for scene in scenes]) if self.with_segment else None,
            geometry=_joined([_required(scene.geometry) for scene in scenes]) if self.settings.geometry else None,
            properties=_joined([_required(scene.properties) for scene in scenes]) if self.settings.properties else None,
            num_points=torch.tensor(num_points),
            regions=build_regions([scene.tree for scene in scenes], num_points) if regions is None else regions,
            samples=torch.arange(len(scenes)),
            epoch=torch.tensor(0),
        )

    def _regions(
        self, scenes: Sequence[PreparedScene], epoch: int, samples: np.ndarray
    ) -> tuple[RegionBatch, tuple[PartialView, ...], WholeRegions | None]:
        """The region trees of a batch, its further views, and the whole regions if the views have only parts."""
        sizes = [scene.num_points for scene in scenes]
        point_index = self._pick(scenes, epoch, samples)
        return build_regions([scene.tree for scene in scenes], sizes, point_index=point_index), (), None

    def _pick(self, scenes: Sequence[PreparedScene], epoch: int, samples: np.ndarray) -> np.ndarray | None:
        """The points of a batch whose features are needed, as indices into its points; None: all."""
        if self.point_samples is None:
            return None
        sizes = [scene.num_points for scene in scenes]
        return sample_points(sizes, self.points_per_scene, seed=self.seed, epoch=epoch, samples=samples)

    @property
    def points_per_scene(self) -> int:
        """Maximum points of a scene that are picked. They do not depend on the other scenes of its batch."""
        assert self.point_samples is not None
        return max(1, self.point_samples // max(1, min(self.batch_size, len(self))))


class SceneLoader(BatchLoader):
    """Batches of scenes; the points picked of each are fewer, the more scenes there are in a batch."""

    dataset: SceneDataset

    def __init__(self, dataset: SceneDataset, *, batch_size: int, **options: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, **options)
        dataset.batch_size = batch_size

    def divide(self, rank: int, num_processes: int, batch_size: int) -> None:
        """Make only the share of one of several processes; see `BatchLoader.divide`."""
        super().divide(rank, num_processes, batch_size)
        self.dataset.batch_size = batch_size


def sample_points(
    num_points: Sequence[int], per_scene: int, *, seed: int, epoch: int, samples: np.ndarray
) -> np.ndarray | None:
    """Sample points of each scene of a batch without replacement.

    Those of a scene depend on (seed, epoch, sample) alone.

    Args:
        num_points: points of each scene.
        per_scene: points to sample of each; of a smaller scene, all.
        seed: seed of the run.
        epoch: epoch of the run.
        samples: `(B,)`, index of each scene in its split.

    Returns:
        Indices into the points of the batch, ascending; None if no scene has more points than that.
    """
    if max(num_points) <= per_scene:
        return None
    first = np.cumsum([0, *num_points[:-1]])
    parts = []
    for scene, size in enumerate(num_points):
        if size <= per_scene:
            parts.append(first[scene] + np.arange(size))
        else:
            rank = uniform(seed, epoch, samples[scene : scene + 1], size, purpose=POINTS)[0]
            parts.append(first[scene] + np.sort(np.argpartition(rank, per_scene - 1)[:per_scene]))
    return np.concatenate(parts)


def without_ignored(scene: PointBatch, ignored: Set[int]) -> PointBatch:
    """The batch with `IGNORE` instead of the ignored labels."""
    assert scene.segment is not None
    is_ignored = torch.isin(scene.segment, torch.tensor(sorted(ignored), dtype=scene.segment.dtype))
    return scene._replace(segment=scene.segment.masked_fill(is_ignored, IGNORE))


def _joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays))


def _required(array: np.ndarray | None) -> np.ndarray:
    assert array is not None, "the manifest refuses scenes without colors"
    return array


def _labels(scene: PreparedScene) -> np.ndarray:
    return np.full(scene.num_points, -1, np.int32) if scene.segment is None else scene.segment
