"""Choose the points that a view of a scene keeps: a compact piece, without masked regions, without some at random.

Legend: N points of the scene.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dbbd_cli.data.random_numbers import CUT, uniform
from dbbd_cli.data.scenes.trees.region_tree import RegionTree


class Cuts(NamedTuple):
    """How much the views of a scene lose.

    Attributes:
        point_dropout: share of the points that each of the first two views loses at random.
        mask: share of the regions that the second view loses.
        mask_level: level of these regions, where a leaf above it counts as one of them; None: the leaves.
        crop: share of the points that the second view keeps: those nearest to one of them, seen from above.
        local_views: number of further views, each of which keeps such a piece.
        local_size: share of the points that each of them keeps.
    """

    point_dropout: float = 0.0
    mask: float = 0.0
    mask_level: int | None = None
    crop: float = 1.0
    local_views: int = 0
    local_size: float = 0.2

    @property
    def cut_anything(self) -> bool:
        """Whether any view loses points."""
        return bool(self.point_dropout or self.mask or self.crop < 1.0 or self.local_views)


def kept_points(
    coord: np.ndarray, tree: RegionTree, cuts: Cuts, *, seed: int, epoch: int, sample: int
) -> list[np.ndarray]:
    """Choose the points of each view: `(N,)` bool for the first, the second and each local one.

    Each view has at least one point in common with the first.

    Args:
        coord: `(N, 3)`.
        tree: the regions.
        cuts: what to cut.
        seed: seed of the run.
        epoch: epoch of the run.
        sample: index of the scene in its split.
    """
    count, pieces = len(coord), 1 + cuts.local_views
    sizes = np.cumsum([pieces, tree.num_regions, count, count])
    draws = uniform(seed, epoch, np.array([sample]), int(sizes[-1]), purpose=CUT)[0]
    places, regions, first_points, second_points = np.split(draws, sizes[:-1])
    # These points always stay, so that no view is empty.
    centers = (places * count).astype(np.int64)

    first = _without_some(np.ones(count, dtype=bool), cuts.point_dropout, first_points)
    first[centers] = True
    second = _nearest(coord, centers[0], cuts.crop)
    if cuts.mask > 0:
        second &= _unmasked(tree, second, centers[0], cuts, regions)
    second = _without_some(second, cuts.point_dropout, second_points)
    second[centers[0]] = True
    local = [_nearest(coord, center, cuts.local_size) for center in centers[1:]]
    return [first, second, *local]


def _without_some(keep: np.ndarray, share: float, rank: np.ndarray) -> np.ndarray:
    """The points in `keep` without a share of them, those of the lowest `rank`."""
    chosen = np.flatnonzero(keep)
    dropped = int(share * len(chosen))
    left = keep.copy()
    if dropped:
        left[chosen[np.argpartition(rank[chosen], dropped - 1)[:dropped]]] = False
    return left


def _nearest(coord: np.ndarray, center: int, share: float) -> np.ndarray:
    """A share of the points: those nearest to one of them, seen from above, including it."""
    if share >= 1.0:
        return np.ones(len(coord), dtype=bool)
    plane = coord[:, :2].astype(np.float64)
    distance = ((plane - plane[center]) ** 2).sum(axis=1)
    distance[center] = -1.0  # before others in the same place
    keep = np.zeros(len(coord), dtype=bool)
    count = math.ceil(share * len(coord))
    keep[np.argpartition(distance, count - 1)[:count]] = True
    return keep


def _unmasked(tree: RegionTree, keep: np.ndarray, center: int, cuts: Cuts, rank: np.ndarray) -> np.ndarray:
    """The points outside of the masked regions: a share of those with points in `keep`, those of the lowest `rank`."""
    level, leaf = cuts.mask_level, tree.is_leaf
    rows = np.flatnonzero(leaf if level is None else (tree.level == level) | (leaf & (tree.level < level)))
    # These regions are a partition of the scene.
    lengths = tree.num_points[rows]
    region = np.empty(len(keep), dtype=np.int64)
    region[tree.indices[np.repeat(np.isin(np.arange(tree.num_regions), rows), tree.num_points)]] = np.repeat(
        rows, lengths
    )
    present = np.unique(region[keep])
    masked = int(cuts.mask * len(present))
    order = present[np.argsort(rank[present], kind="stable")]
    return ~np.isin(region, order[order != region[center]][:masked])
