"""What probes read of the points of a scene, for each kind of features.

Legend: N points of a scene, n chosen points, D channels of the encoder, R regions of all levels, L levels of a path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload, make_network
from dbbd_cli.tasks.scene_batches import PointBatch

PRETRAINED, RANDOM, RAW = "pretrained", "random encoder", "raw features"
_MAX_CHANNELS = 2048
"""Longer paths are thinned out evenly, because the time of a probe grows with the square of the channels."""


@dataclass(frozen=True)
class SceneFeatures:
    """The features of a scene in parts, on the CPU: put together for all points, they may be ten times as large.

    Attributes:
        points: features of the points themselves, `(N, C)` float32.
        regions: features of the regions, `(R, 2D)` float32; None if regions do not count.
        rows: the region of each point on each level of its path, `(L, N)`.
    """

    points: torch.Tensor
    regions: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def of(self, chosen: torch.Tensor) -> torch.Tensor:
        """The features `(n, channels)` of some points; `chosen` `(n,)` are their numbers."""
        points = self.points[chosen]
        if self.regions is None or self.rows is None:
            return points
        path = self.regions[self.rows[:, chosen].T]
        return torch.cat([points, path.flatten(1)], dim=1)


Extractors = Mapping[str, Callable[[PointBatch], SceneFeatures]]
"""Name of a kind of features to a function that computes those of a scene."""


def point_features(workload: DbbdWorkload, encoder: DbbdEncoder, scene: PointBatch, runtime: Runtime) -> torch.Tensor:
    """The features `(N, D)` of the points of a scene without augmentation, on the device.

    They come from the branch G2L, in which the features of a point depend on all regions that contain it.
    """
    with torch.no_grad(), runtime.autocast():
        return encoder.global_to_local(*workload.without_views(scene, runtime.device)).points.float()


def make_extractors(workload: DbbdWorkload, runtime: Runtime, levels: Sequence[int]) -> Extractors:
    """The extractors of the pretrained encoder, of the one that the run started from, and of the input itself.

    Args:
        workload: the network and the scenes.
        runtime: device and precision.
        levels: levels of the tree whose regions count; none for the features of the points alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.config.seed)
        untrained = make_network(workload.config)
    place(untrained, runtime)

    def raw(scene: PointBatch) -> SceneFeatures:
        return SceneFeatures(torch.cat(workload.without_views(scene, runtime.device)[:2], dim=1).cpu())

    return {
        PRETRAINED: lambda scene: _encoded(workload, workload.module.encoder, scene, runtime, levels),
        RANDOM: lambda scene: _encoded(workload, untrained.encoder, scene, runtime, levels),
        RAW: raw,
    }


def path_levels(workload: DbbdWorkload, splits: Sequence[str]) -> list[int]:
    """The levels whose regions probes read, as `probe.features` says; the scenes of these splits are prepared.

    The root is left out: with few labeled scenes, its features tell scenes apart rather than classes.
    """
    if workload.config.probe.features == "leaf":
        return []
    deepest = max(int(scene.tree.level.max()) for split in splits for scene in workload.prepared_scenes(split))
    highest = min(1, deepest)
    at_most = max(1, (_MAX_CHANNELS // workload.config.model.output_dim - 1) // 2)
    # From the leaves up: if only one level is left, it is the lowest.
    spaced = np.linspace(deepest, highest, min(at_most, deepest - highest + 1))
    return sorted({int(level) for level in np.rint(spaced)})


def num_channels(workload: DbbdWorkload, levels: Sequence[int]) -> int:
    """The most channels that any kind of features has."""
    return max((1 + 2 * len(levels)) * workload.config.model.output_dim, 3 + workload.data.feature_dim)


def _encoded(
    workload: DbbdWorkload, encoder: DbbdEncoder, scene: PointBatch, runtime: Runtime, levels: Sequence[int]
) -> SceneFeatures:
    if not levels:
        return SceneFeatures(point_features(workload, encoder, scene, runtime).cpu())
    with torch.no_grad(), runtime.autocast():
        coord, feat, regions = workload.without_views(scene, runtime.device)
        down = encoder.global_to_local(coord, feat, regions)
        up = encoder.local_to_global(coord, feat, regions.without_picked())
    branches = [torch.cat(branch.regions).float().cpu() for branch in (down, up)]
    return SceneFeatures(down.points.float().cpu(), torch.cat(branches, dim=1), regions.path_rows(levels).cpu())
