"""The regions of a batch as flat index tensors, so that a step processes all regions and scenes at once.

Legend: N points of the batch, S picked points, R regions of a level, Nl points of a level's regions, L levels,
B scenes. Point numbers run through the batch, scene after scene. Rows of a level are in scene order and, within a
scene, in depth-first order; siblings are adjacent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from dbbd_cli.model.dbbd.segment_ops import segment_sum

_T = TypeVar("_T")
_CHUNK = 1 << 15
"""Points that are encoded at once."""


class FlatTree(Protocol):
    """The tree of one scene, nodes in depth-first pre-order; node n has `indices[indices_ptr[n]:indices_ptr[n + 1]]`.

    Point numbers are within the scene, and the parent of the root is -1.
    """

    @property
    def parent(self) -> np.ndarray: ...  # noqa: D102

    @property
    def level(self) -> np.ndarray: ...  # noqa: D102

    @property
    def center_idx(self) -> np.ndarray: ...  # noqa: D102

    @property
    def indices(self) -> np.ndarray: ...  # noqa: D102

    @property
    def indices_ptr(self) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class PointGroups:
    """Points by group, group after group.

    Attributes:
        index: `(Nl,)` point numbers.
        segment: `(Nl,)` the group of each, ascending.
        start: `(R,)` where each group begins in `index`.
        center: `(R,)` point number of each group's center.
        picked: positions in `index` of the picked points of these groups.
    """

    index: torch.Tensor
    segment: torch.Tensor
    start: torch.Tensor
    center: torch.Tensor
    picked: torch.Tensor


@dataclass(frozen=True)
class RegionLevel:
    """The regions of one level over all scenes.

    Attributes:
        points: the points of the regions; picked are those whose leaf is on this level.
        parent: `(R,)` row in the level above; zeros at the root.
        family: `(R,)` rank of the parent among the regions of the level above that have children.
        family_start: first row of each family.
        assemble: `(R,)` rows of [leaves of this level, inner regions] in the order of the level.
        offset: `(B + 1,)` scene s has the rows `offset[s]` to `offset[s + 1]`.
        leaves: range of the leaves of this level among those of all levels.
    """

    points: PointGroups
    parent: torch.Tensor
    family: torch.Tensor
    family_start: torch.Tensor
    assemble: torch.Tensor
    offset: torch.Tensor
    leaves: tuple[int, int]

    @property
    def num_regions(self) -> int:
        """R."""
        return len(self.parent)


@dataclass(frozen=True)
class RegionBatch:
    """The trees of a batch.

    Attributes:
        levels: from the root down.
        leaves: the leaves of all levels, level after level; they contain every point of the view once.
        point: `(S,)` numbers of the picked points, in the order of the point features.
        point_order: `(S,)` sorts the picked points from the order of levels into the order of `point`.
        first_point: `(B,)` number of the first point of each scene.
        num_points: N.
        num_scenes: B.
    """

    levels: tuple[RegionLevel, ...]
    leaves: PointGroups
    point: torch.Tensor
    point_order: torch.Tensor
    first_point: torch.Tensor
    num_points: int
    num_scenes: int

    def rows_of_points(self) -> list[torch.Tensor]:
        """The row on each level of the region of each picked point, `(S,)`; -1 below its leaf."""
        found = []
        for level in self.levels:
            row = level.points.index.new_full((self.num_points,), -1)
            row[level.points.index] = level.points.segment
            found.append(row.index_select(0, self.point))
        return found

    def path_rows(self, levels: Sequence[int]) -> torch.Tensor:
        """The region of each picked point on these levels, `(L, S)`, as a row in the regions of all levels together.

        Below the leaf of a point, it is the leaf.
        """
        found: list[torch.Tensor] = []
        first = 0
        for level, row in zip(self.levels, self.rows_of_points(), strict=True):
            found.append(torch.where(row < 0, found[-1], row + first) if found else row)
            first += level.num_regions
        return torch.stack([found[min(level, len(found) - 1)] for level in levels])

    def without_picked(self) -> RegionBatch:
        """The same trees, of which no point features are needed."""
        none = self.point[:0]
        levels = tuple(replace(level, points=replace(level.points, picked=none)) for level in self.levels)
        leaves = replace(self.leaves, picked=none)
        return replace(self, levels=levels, leaves=leaves, point=none, point_order=none)

    def without_inner_points(self) -> RegionBatch:
        """The same trees, of which only the leaves list their points and none are picked."""
        none = self.point[:0]
        trees = self.without_picked()
        levels = tuple(
            replace(level, points=replace(level.points, index=none, segment=none, start=none)) for level in trees.levels
        )
        return replace(trees, levels=levels)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> RegionBatch:
        """The batch on a device."""
        if torch.device(device) == self.point.device:
            return self
        return _packed(self, lambda buffer: buffer.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RegionBatch:
        """The batch in page-locked memory."""
        return _packed(self, torch.Tensor.pin_memory)


@dataclass(frozen=True)
class SharedRegions:
    """The regions of one level that two views have in common, in the order of the level.

    Attributes:
        first: `(R,)` their rows in the first view.
        second: `(R,)` their rows in the second.
        offset: `(B + 1,)` scene s has the entries `offset[s]` to `offset[s + 1]`.
    """

    first: torch.Tensor
    second: torch.Tensor
    offset: torch.Tensor


@dataclass(frozen=True)
class PartialView:
    """What a view of some of the points of a batch has of the trees.

    Attributes:
        regions: the regions that have points in the view, with these points alone; picked are points that the first
            view has too.
        shared: the regions that the first view has too, by level from the root down; levels without any may be missing.
    """

    regions: RegionBatch
    shared: tuple[SharedRegions, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PartialView:
        """The view on a device."""
        if torch.device(device) == self.regions.point.device:
            return self
        return _packed(self, lambda buffer: buffer.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PartialView:
        """The view in page-locked memory."""
        return _packed(self, torch.Tensor.pin_memory)


@dataclass(frozen=True)
class WholeRegions:
    """All regions of a batch, with the points that the views do not have.

    Attributes:
        regions: the regions; only leaves list their points, and none are picked.
        rows: for each view and level of the view, `(R,)` the rows of its regions in `regions`.
    """

    regions: RegionBatch
    rows: tuple[tuple[torch.Tensor, ...], ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> WholeRegions:
        """The regions on a device."""
        if torch.device(device) == self.regions.point.device:
            return self
        return _packed(self, lambda buffer: buffer.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> WholeRegions:
        """The regions in page-locked memory."""
        return _packed(self, torch.Tensor.pin_memory)


def region_means(
    features: torch.Tensor, regions: RegionBatch, encode: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """The mean code `(R, D)` of the points of each region, for each level from the root down.

    Args:
        features: `(N, C)`.
        regions: the trees, whose leaves contain every point once.
        encode: returns the codes `(n, D)` of features `(n, C)`.
    """
    index, segment = regions.leaves.index, regions.leaves.segment
    leaves: torch.Tensor | None = None
    for first in range(0, len(index), _CHUNK):
        rows = slice(first, first + _CHUNK)
        # With the number of points as the last column.
        codes = F.pad(encode(features.index_select(0, index[rows])), (0, 1), value=1.0)
        leaves = codes.new_zeros(len(regions.leaves.start), codes.shape[1]) if leaves is None else leaves
        leaves.index_add_(0, segment[rows], codes)
    assert leaves is not None, "every scene has points"
    sums: list[torch.Tensor] = []
    for level, below in zip(reversed(regions.levels), [None, *reversed(regions.levels[1:])], strict=True):
        own = leaves[level.leaves[0] : level.leaves[1]]
        if below is not None:
            joined = segment_sum(sums[-1], below.family, len(below.family_start))
            own = torch.cat([own, joined]).index_select(0, level.assemble)
        sums.append(own)
    return [level[:, :-1] / level[:, -1:] for level in reversed(sums)]


def build_regions(
    trees: Sequence[FlatTree], num_points: Sequence[int], *, point_index: np.ndarray | None = None
) -> RegionBatch:
    """Join the trees of the scenes of a batch.

    Args:
        trees: one per scene; the leaves of each contain every point of its scene once.
        num_points: points of each scene.
        point_index: `(S,)` numbers of the points whose features are needed; None: all.
    """
    point = np.arange(int(np.sum(num_points))) if point_index is None else np.asarray(point_index, dtype=np.int64)
    regions = _regions(_join(trees, _starts(num_points)), num_points, point)
    return _packed(regions, lambda buffer: buffer)


def build_partial_views(
    trees: Sequence[FlatTree], num_points: Sequence[int], keep: Sequence[np.ndarray], points: Sequence[np.ndarray]
) -> tuple[RegionBatch, tuple[PartialView, ...]]:
    """Join the trees of the scenes of a batch for views that have only some of the points.

    A region has the points that are left of it, and its center even if that is not among them; regions without points
    are left out.

    Args:
        trees: one per scene; the leaves of each contain every point of its scene once.
        num_points: points of each scene.
        keep: for the first and each other view, `(N,)` bool: the points that it has, at least one of each scene.
        points: for each other view, the numbers of the points that are compared with the first view's; both have them.

    Returns:
        The regions of the first view, whose picked points are those of all other views one after the other; and the
        other views.
    """
    nodes = _join(trees, _starts(num_points))
    left = [_restricted(nodes, mask) for mask in keep]
    first = _regions(left[0][0], num_points, np.concatenate(points))
    views = [
        PartialView(_regions(part, num_points, point), _shared(nodes, left[0][1], present, len(trees)))
        for (part, present), point in zip(left[1:], points, strict=True)
    ]
    return _packed(first, lambda buffer: buffer), tuple(_packed(view, lambda buffer: buffer) for view in views)


def build_whole_regions(
    trees: Sequence[FlatTree], num_points: Sequence[int], keep: Sequence[np.ndarray]
) -> WholeRegions:
    """Join the trees of the scenes of a batch, and find the regions of views that have only some of the points.

    Args:
        trees: as for `build_partial_views`.
        num_points: points of each scene.
        keep: for each view, `(N,)` bool: the points that it has.
    """
    nodes = _join(trees, _starts(num_points))
    every = np.ones(len(nodes.parent), dtype=bool)
    rows = tuple(
        tuple(level.first for level in _shared(nodes, every, _restricted(nodes, mask)[1], len(trees))) for mask in keep
    )
    regions = _regions(nodes, num_points, np.zeros(0, dtype=np.int64)).without_inner_points()
    return _packed(WholeRegions(regions, rows), lambda buffer: buffer)


def _regions(nodes: _Nodes, num_points: Sequence[int], point: np.ndarray) -> RegionBatch:
    total = int(np.sum(num_points))
    is_leaf = np.ones(len(nodes.parent), dtype=bool)
    is_leaf[nodes.parent[nodes.parent >= 0]] = False
    levels = _levels(nodes, is_leaf, len(num_points))
    leaf_index = np.concatenate([level["index"][level["leaf_rows"]] for level in levels])
    picked, order = _pick(levels, leaf_index, point, total)
    leaf_nodes = np.flatnonzero(is_leaf)
    leaf_nodes = leaf_nodes[np.argsort(nodes.level[leaf_nodes], kind="stable")]
    return RegionBatch(
        levels=tuple(_level(level) for level in levels),
        leaves=PointGroups(
            index=_tensor(leaf_index),
            segment=_tensor(np.repeat(np.arange(len(leaf_nodes)), nodes.length[leaf_nodes])),
            start=_tensor(_starts(nodes.length[leaf_nodes])),
            center=_tensor(nodes.center[leaf_nodes]),
            picked=_tensor(picked),
        ),
        point=_tensor(point),
        point_order=_tensor(order),
        first_point=_tensor(_starts(num_points)),
        num_points=total,
        num_scenes=len(num_points),
    )


@dataclass(frozen=True)
class _Nodes:
    """The nodes of all trees of a batch."""

    parent: np.ndarray
    level: np.ndarray
    center: np.ndarray
    start: np.ndarray
    length: np.ndarray
    scene: np.ndarray
    indices: np.ndarray


def _join(trees: Sequence[FlatTree], first_point: np.ndarray) -> _Nodes:
    counts = [len(tree.parent) for tree in trees]
    scene = np.repeat(np.arange(len(trees)), counts)
    parent = _concatenate([tree.parent for tree in trees])
    stored = [len(tree.indices) for tree in trees]
    pointer = [np.asarray(tree.indices_ptr, dtype=np.int64) for tree in trees]
    return _Nodes(
        parent=np.where(parent < 0, -1, parent + _starts(counts)[scene]),
        level=_concatenate([tree.level for tree in trees]),
        center=_concatenate([tree.center_idx for tree in trees]) + first_point[scene],
        start=_concatenate([one[:-1] for one in pointer]) + _starts(stored)[scene],
        length=np.concatenate([np.diff(one) for one in pointer]),
        scene=scene,
        indices=_concatenate([tree.indices for tree in trees]) + np.repeat(first_point, stored),
    )


def _restricted(nodes: _Nodes, keep: np.ndarray) -> tuple[_Nodes, np.ndarray]:
    """The nodes that have any of the points in `keep` `(N,)`, with these points, and which nodes these are."""
    kept = keep[nodes.indices]
    before = np.concatenate([[0], np.cumsum(kept)])
    start, end = before[nodes.start], before[nodes.start + nodes.length]
    present = end > start
    # A parent has the points of its children.
    parent = np.where(nodes.parent < 0, -1, (np.cumsum(present) - 1)[nodes.parent])
    left = _Nodes(
        parent=parent[present],
        level=nodes.level[present],
        center=nodes.center[present],
        start=start[present],
        length=(end - start)[present],
        scene=nodes.scene[present],
        indices=nodes.indices[kept],
    )
    return left, present


def _shared(nodes: _Nodes, first: np.ndarray, second: np.ndarray, num_scenes: int) -> tuple[SharedRegions, ...]:
    """The nodes that two views have in common, given which each of them has, level by level."""
    shared = []
    for number in range(int(nodes.level[first & second].max()) + 1):
        members = np.flatnonzero(nodes.level == number)
        one, two = first[members], second[members]
        both = one & two
        shared.append(
            SharedRegions(
                first=_tensor((np.cumsum(one) - 1)[both]),
                second=_tensor((np.cumsum(two) - 1)[both]),
                offset=_tensor(np.searchsorted(nodes.scene[members[both]], np.arange(num_scenes + 1))),
            )
        )
    return tuple(shared)


def _levels(nodes: _Nodes, is_leaf: np.ndarray, num_scenes: int) -> list[dict[str, Any]]:
    """The parts of each `RegionLevel`, without `picked`; also the `rank` of each region, and the `leaf_rows`.

    `rank` counts leaves and inner regions of the level separately; `leaf_rows` are the rows of `index` in leaves.
    """
    row_of_node = np.zeros(len(nodes.parent), dtype=np.int64)
    levels: list[dict[str, Any]] = []
    num_leaves = 0
    for number in range(int(nodes.level.max()) + 1):
        members = np.flatnonzero(nodes.level == number)
        row_of_node[members] = np.arange(len(members))
        parent = row_of_node[nodes.parent[members]] if number else np.zeros(len(members), dtype=np.int64)
        leaf = is_leaf[members]
        count = int(leaf.sum())
        rank = np.where(leaf, np.cumsum(leaf) - 1, np.cumsum(~leaf) - 1)
        segment = np.repeat(np.arange(len(members)), nodes.length[members])
        levels.append(
            {
                "index": nodes.indices[_ranges(nodes.start[members], nodes.length[members])],
                "segment": segment,
                "start": _starts(nodes.length[members]),
                "center": nodes.center[members],
                "parent": parent,
                "family": levels[-1]["rank"][parent] if levels else parent,
                "family_start": np.flatnonzero(np.diff(parent, prepend=-1)),
                "rank": rank,
                "assemble": np.where(leaf, rank, count + rank),
                "offset": np.searchsorted(nodes.scene[members], np.arange(num_scenes + 1)),
                "leaves": (num_leaves, num_leaves + count),
                "leaf_rows": np.flatnonzero(leaf[segment]),
            }
        )
        num_leaves += count
    return levels


def _pick(
    levels: list[dict[str, Any]], leaf_index: np.ndarray, point: np.ndarray, num_points: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add to each level the rows of the points `(S,)` whose leaf is on it, as `picked`.

    Returns:
        The position of each point among the points of the leaves, and `point_order`, both `(S,)`.
    """
    place = np.empty(num_points, dtype=np.int64)
    place[leaf_index] = np.arange(len(leaf_index))
    picked = place[point]
    first_of_level = _starts([len(level["leaf_rows"]) for level in levels])
    level_of_pick = np.searchsorted(first_of_level, picked, side="right") - 1
    for number, level in enumerate(levels):
        level["picked"] = level["leaf_rows"][picked[level_of_pick == number] - first_of_level[number]]
    order = np.empty(len(point), dtype=np.int64)
    order[np.argsort(level_of_pick, kind="stable")] = np.arange(len(point))
    return picked, order


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.cumsum(np.concatenate([[0], np.asarray(lengths, dtype=np.int64)]))[:-1]


def _ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`start[0], start[0] + 1, …` (`length[0]` numbers), then the next range, in one array."""
    return np.repeat(start - _starts(length), length) + np.arange(int(length.sum()))


def _concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


def _level(parts: dict[str, Any]) -> RegionLevel:
    names = [field.name for field in fields(PointGroups)]
    points = PointGroups(**{name: _tensor(parts[name]) for name in names})
    others = {name: _tensor(parts[name]) for name in ("parent", "family", "family_start", "assemble", "offset")}
    return RegionLevel(points=points, leaves=parts["leaves"], **others)


def _packed(value: _T, move: Callable[[torch.Tensor], torch.Tensor]) -> _T:
    """The same structure with all tensors as views of one tensor, after `move`.

    One copy to a GPU is faster than dozens, and each separate tensor from another process would take one of the files
    that a process may have open.

    Args:
        value: dataclasses and tuples with one-dimensional int64 tensors on one device.
        move: applied to the one tensor.
    """
    tensors: list[torch.Tensor] = []

    def collect(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    _map(value, collect)
    views = iter(move(_concatenated(tensors)).split([len(tensor) for tensor in tensors]))
    return _map(value, lambda _: next(views))


def _concatenated(tensors: list[torch.Tensor]) -> torch.Tensor:
    """All tensors in one; without a copy if they already are all of one storage, in this order."""
    storage = tensors[0].untyped_storage()
    total = sum(len(tensor) for tensor in tensors)
    shared = all(tensor.untyped_storage().data_ptr() == storage.data_ptr() for tensor in tensors)
    if shared and storage.nbytes() == total * tensors[0].element_size():
        return tensors[0].as_strided((total,), (1,), 0)
    return torch.cat(tensors)


def _map(value: _T, function: Callable[[torch.Tensor], torch.Tensor]) -> _T:
    """The same structure with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _map(getattr(value, field.name), function) for field in fields(value)})
    return value
