"""Build the region tree of a scene by farthest-point sampling, all regions of a level at once.

Legend: N points of the scene, R regions of a level, P points of these regions, K children per region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dbbd_cli.data.scenes.trees.region_tree import RegionTree

NUM_CHILDREN = 8
"""K."""


@dataclass(frozen=True)
class _Level:
    """The regions of one level, concatenated.

    Attributes:
        parent: row of the parent among the regions of the level above, `(R,)`, ascending.
        center_idx: the point at the center of each region, `(R,)`.
        indices: the points of each region, ascending, `(P,)`.
        counts: number of points of each region, `(R,)`.
    """

    parent: np.ndarray
    center_idx: np.ndarray
    indices: np.ndarray
    counts: np.ndarray


def build_tree(coord: np.ndarray, *, max_depth: int = 4, min_region_points: int = 16) -> RegionTree:
    """Divide a scene into regions, and these into smaller ones, down to `max_depth`.

    A region of at least `2 * min_region_points` points gets up to 8 children: their centers are chosen by
    farthest-point sampling, starting at the point nearest to the centroid, and every point goes to the nearest center
    (the first one on ties). Coincident points stay together, so that a region with fewer distinct points has fewer
    children, and one with a single distinct point has none. The center of the root is the point nearest to its
    centroid.

    Args:
        coord: finite coordinates, `(N, 3)`, in any unit and at any distance from the origin.
        max_depth: level of the deepest regions, at most `MAX_LEVEL`; 0: only the root.
        min_region_points: see above; at least 1.

    Returns:
        The tree; it depends on the coordinates alone.
    """
    axes = _unit_axes(coord)
    everything = np.arange(len(coord), dtype=np.int32)
    start = _nearest_to_centroid(axes, np.array([0]), np.array([len(coord)]))
    levels = [_Level(np.array([-1]), start, everything, np.array([len(coord)]))]
    while len(levels) <= max_depth:
        children = _split(axes, levels[-1], 2 * min_region_points)
        if children is None:
            break
        levels.append(children)
    return _in_pre_order(levels)


def _unit_axes(coord: np.ndarray) -> np.ndarray:
    """The coordinates shifted and scaled into [0, 1), `(3, N)` float64, so that squares neither vanish nor overflow."""
    axes = np.ascontiguousarray(coord.T, dtype=np.float64)
    # Scaling by a power of two is exact: it cannot change which of two distances is smaller.
    exponent = np.frexp(np.abs(axes).max())[1]
    axes = np.ldexp(axes, -exponent)
    axes -= axes.min(axis=1, keepdims=True)
    return np.ldexp(axes, -np.frexp(axes.max())[1])


def _nearest_to_centroid(axes: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The column of `axes` `(3, P)` nearest to the centroid of each region, `(R,)`."""
    centroid = np.add.reduceat(axes, starts, axis=1) / counts
    return _first_maximum(-_squared_distance(axes, centroid, counts), starts, counts)[0]


def _squared_distance(axes: np.ndarray, centers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The squared distance of each point `(3, P)` to the center `(3, R)` of its region, `(P,)`."""
    total = np.zeros(axes.shape[1])
    for axis, center in zip(axes, centers, strict=True):
        step = np.repeat(center, counts)
        np.subtract(axis, step, out=step)
        np.multiply(step, step, out=step)
        total += step
    return total


def _first_maximum(values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first maximum of `values` `(P,)` in each region: its index and its value, both `(R,)`."""
    largest = np.maximum.reduceat(values, starts)
    indices = np.flatnonzero(values == np.repeat(largest, counts))
    return indices[np.searchsorted(indices, starts)], largest


def _split(scene_axes: np.ndarray, level: _Level, min_points: int) -> _Level | None:
    """The next level: the children of the regions of this one; None if there are none."""
    rows = np.flatnonzero(level.counts >= min_points)
    if len(rows) == 0:
        return None
    indices = level.indices[np.repeat(level.counts >= min_points, level.counts)]
    counts = level.counts[rows]
    starts = np.cumsum(counts) - counts
    axes = scene_axes[:, indices]

    center = _nearest_to_centroid(axes, starts, counts)
    centers = np.empty((len(rows), NUM_CHILDREN), dtype=np.int32)
    child = np.zeros(len(indices), dtype=np.uint8)
    nearest = np.full(len(indices), np.inf)
    for number in range(NUM_CHILDREN):
        centers[:, number] = indices[center]
        distance = _squared_distance(axes, axes[:, center], counts)
        # In a region without further distinct points, the next center coincides with an earlier one and wins no point.
        closer = distance < nearest
        child[closer] = number
        np.minimum(nearest, distance, out=nearest)
        center, _ = _first_maximum(nearest, starts, counts)

    key = np.repeat(np.arange(len(rows)) * NUM_CHILDREN, counts) + child
    sizes = np.bincount(key, minlength=len(rows) * NUM_CHILDREN)
    single = (sizes.reshape(-1, NUM_CHILDREN) > 0).sum(axis=1) == 1  # all points coincide: no children
    sizes[np.repeat(single, NUM_CHILDREN)] = 0
    filled = np.flatnonzero(sizes)
    if len(filled) == 0:
        return None
    stay = ~np.repeat(single, counts)
    key, indices = key[stay], indices[stay]
    if len(sizes) <= 1 << 16:
        key = key.astype(np.uint16)  # NumPy sorts these by radix sort, ten times as fast
    order = np.argsort(key, kind="stable")
    return _Level(rows[filled // NUM_CHILDREN], centers.reshape(-1)[filled], indices[order], sizes[filled])


def _in_pre_order(levels: list[_Level]) -> RegionTree:
    """The tree of the levels, its regions in depth-first pre-order, children from left to right."""
    sizes = [np.ones(len(level.counts), dtype=np.int64) for level in levels]  # regions of each subtree
    for depth in range(len(levels) - 1, 0, -1):
        np.add.at(sizes[depth - 1], levels[depth].parent, sizes[depth])

    rows = [np.array([0])]
    for depth in range(1, len(levels)):
        parent = levels[depth].parent
        before = np.cumsum(sizes[depth]) - sizes[depth]
        first_sibling = np.searchsorted(parent, parent)
        rows.append(rows[-1][parent] + 1 + before - before[first_sibling])

    regions = int(sizes[0][0])
    parent, level, center_idx = (np.empty(regions, dtype=np.int32) for _ in range(3))
    counts = np.empty(regions, dtype=np.int64)
    for depth, (part, row) in enumerate(zip(levels, rows, strict=True)):
        parent[row] = rows[depth - 1][part.parent] if depth else -1
        level[row] = depth
        center_idx[row] = part.center_idx
        counts[row] = part.counts
    indices_ptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.empty(int(indices_ptr[-1]), dtype=np.int32)
    for part, row in zip(levels, rows, strict=True):
        starts = np.cumsum(part.counts) - part.counts
        indices[np.repeat(indices_ptr[row] - starts, part.counts) + np.arange(len(part.indices))] = part.indices
    return RegionTree(parent, level, center_idx, indices, indices_ptr)
