"""The region tree of a scene as flat arrays, and the check that it is valid.

Legend: N points of the scene, R regions, L levels, M points summed over all regions (at most N * L).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dbbd_cli.core.errors import DataError

MAX_LEVEL = 32
"""Maximum level of a tree: more than any scene needs, but it bounds the cost of a malformed file."""
_HINT = "fix the tree, or remove it from the scene: dbbd then builds one from the coordinates"


@dataclass(frozen=True, eq=False)
class RegionTree:
    """Regions in depth-first pre-order, children from left to right.

    Region r holds the points `indices[indices_ptr[r]:indices_ptr[r + 1]]`.

    Attributes:
        parent: row of the parent, -1 for the root, `(R,)` int32.
        level: 0 for the root, otherwise one more than the parent's, `(R,)` int32.
        center_idx: the point at the center of each region, one of its own, `(R,)` int32.
        indices: the points of each region as indices into the scene, `(M,)` int32.
        indices_ptr: where the points of each region start, `(R + 1,)` int64.
    """

    parent: np.ndarray
    level: np.ndarray
    center_idx: np.ndarray
    indices: np.ndarray
    indices_ptr: np.ndarray

    @property
    def num_regions(self) -> int:
        """R, including the root."""
        return len(self.parent)

    @property
    def num_levels(self) -> int:
        """L; 1 if the root is the only region."""
        return int(self.level.max()) + 1

    @property
    def num_points(self) -> np.ndarray:
        """Number of points of each region, `(R,)` int64."""
        return np.diff(self.indices_ptr)

    @property
    def is_leaf(self) -> np.ndarray:
        """Whether a region has no children, `(R,)` bool."""
        leaf = np.ones(self.num_regions, dtype=bool)
        leaf[self.parent[1:]] = False
        return leaf

    def region(self, row: int) -> np.ndarray:
        """The points of one region, `(points,)` int32."""
        return self.indices[self.indices_ptr[row] : self.indices_ptr[row + 1]]


def tree_error(source: str, path: str, what: str) -> DataError:
    """The error for one region; for `path`, see `region_path`."""
    return DataError(f"{source}: region {path} {what}", hint=_HINT)


def region_path(parent: np.ndarray, row: int) -> str:
    """The path to a region, as positions among siblings from the root: `root/3/0`.

    Works for invalid trees too, if the parents on the path come before their children.
    """
    steps = []
    while row > 0:
        above = int(parent[row])
        steps.append(str(int(np.count_nonzero(parent[1:row] == above))))
        row = above
    return "/".join(["root", *reversed(steps)])


def check_tree(tree: RegionTree, num_points: int, source: str = "region tree") -> None:
    """Check that a tree is valid: children partition the points of their parent, and the root holds all points.

    Args:
        tree: the tree; its arrays may hold anything.
        num_points: N.
        source: name of the tree's file, for the message.

    Raises:
        DataError: the tree is invalid; the message has the path of the first bad region.
    """
    _check_arrays(tree, source)
    _check_order(tree, source)

    def fail(row: int, what: str) -> None:
        raise tree_error(source, region_path(tree.parent, row), what)

    counts = tree.num_points
    if (row := _first(counts < 1)) is not None:
        fail(row, "holds no points")
    owner = np.repeat(np.arange(tree.num_regions, dtype=np.int32), counts)  # the region of every entry of indices
    if tree.indices.min() < 0 or tree.indices.max() >= num_points:
        wrong = _first((tree.indices < 0) | (tree.indices >= num_points))
        assert wrong is not None
        fail(owner[wrong], f"holds point {tree.indices[wrong]}, and the scene has points 0 to {num_points - 1}")
    if counts[0] != num_points:
        fail(0, f"holds {counts[0]:,} points, and the scene has {num_points:,}")
    centered = np.logical_or.reduceat(tree.indices == np.repeat(tree.center_idx, counts), tree.indices_ptr[:-1])
    if (row := _first(~centered)) is not None:
        fail(row, f"has its center at point {tree.center_idx[row]}, which it does not hold")
    _check_partition(tree, owner, num_points, source)


def cut_tree(tree: RegionTree, max_level: int) -> RegionTree:
    """The tree without the regions below `max_level`; the regions at that level become leaves."""
    keep = tree.level <= max_level
    if keep.all():
        return tree
    counts = tree.num_points
    new_row = np.cumsum(keep) - 1  # the parent of a region that is kept is kept too
    parent = tree.parent[keep]
    parent[1:] = new_row[parent[1:]]
    return RegionTree(
        parent=parent,
        level=tree.level[keep],
        center_idx=tree.center_idx[keep],
        indices=tree.indices[np.repeat(keep, counts)],
        indices_ptr=np.concatenate([[0], np.cumsum(counts[keep])]),
    )


def _first(wrong: np.ndarray) -> int | None:
    """The first index that is true."""
    index = int(wrong.argmax())
    return index if wrong[index] else None


def _check_arrays(tree: RegionTree, source: str) -> None:
    """Check the shapes and types of the arrays, and the bounds of `indices_ptr`."""
    arrays = (tree.parent, tree.level, tree.center_idx, tree.indices, tree.indices_ptr)
    shapes = [array.shape for array in arrays]
    regions = len(tree.parent) if tree.parent.ndim == 1 else 0
    if any(array.ndim != 1 or array.dtype.kind != "i" for array in arrays) or (
        regions < 1 or shapes[1:3] != [(regions,)] * 2 or shapes[4] != (regions + 1,)
    ):
        raise DataError(f"{source}: its arrays have inconsistent types or shapes: {shapes}", hint=_HINT)
    pointers = tree.indices_ptr
    if pointers[0] != 0 or pointers[-1] != len(tree.indices) or (np.diff(pointers) < 0).any():
        raise DataError(f"{source}: indices_ptr does not rise from 0 to {len(tree.indices)}", hint=_HINT)


def _check_order(tree: RegionTree, source: str) -> None:
    """Check that parents and levels form a tree in depth-first pre-order, which rules out cycles."""
    parent, level = tree.parent, tree.level
    rows = np.arange(len(parent))
    if parent[0] != -1 or level[0] != 0:
        raise tree_error(source, "root", f"has parent {parent[0]} and level {level[0]}, not -1 and 0")
    if (row := _first((parent < 0) & (rows > 0) | (parent >= rows))) is not None:
        raise tree_error(source, f"in row {row}", f"has parent {parent[row]}, which is not an earlier row")
    if (row := _first((rows > 0) & (level != level[parent] + 1))) is not None:
        wanted = level[parent[row]] + 1
        raise tree_error(source, region_path(parent, row), f"has level {level[row]}, not {wanted}")
    if (row := _first(level > MAX_LEVEL)) is not None:
        raise tree_error(source, region_path(parent, row), f"lies deeper than level {MAX_LEVEL}")
    if (row := _first((rows > 0) & (level > np.roll(level, 1) + 1))) is not None:
        raise tree_error(source, region_path(parent, row), "is not in depth-first order")
    for depth in range(1, int(level.max()) + 1):
        here, above = np.flatnonzero(level == depth), np.flatnonzero(level == depth - 1)
        expected = above[np.searchsorted(above, here) - 1]  # in pre-order the parent is the last region one level up
        if (wrong := _first(parent[here] != expected)) is not None:
            raise tree_error(source, region_path(parent, here[wrong]), "is not in depth-first order")


def _check_partition(tree: RegionTree, owner: np.ndarray, num_points: int, source: str) -> None:
    """Check that children hold each point of their parent once, and no others; the root holds every point."""
    counts = tree.num_points
    entry_level = np.repeat(tree.level.astype(np.int8), counts)
    above = np.empty(0, dtype=np.int32)
    for depth in range(tree.num_levels):
        entries = np.flatnonzero(entry_level == depth)
        points, regions = tree.indices[entries], owner[entries]
        if depth > 0 and (wrong := _first(above[points] != tree.parent[regions])) is not None:
            path = region_path(tree.parent, regions[wrong])
            raise tree_error(source, path, f"holds point {points[wrong]}, which its parent does not hold")
        here = np.full(num_points, -1, dtype=np.int32)
        here[points] = regions
        if np.count_nonzero(here >= 0) != len(points):
            ordered = np.argsort(points, kind="stable")
            wrong = _first(points[ordered][1:] == points[ordered][:-1])
            assert wrong is not None
            first, second = (region_path(tree.parent, regions[ordered[wrong + step]]) for step in (0, 1))
            also = " twice" if first == second else f", which region {first} holds too"
            raise tree_error(source, second, f"holds point {points[ordered[wrong]]}{also}")
        above = here
    held = np.bincount(tree.parent[1:], weights=counts[1:], minlength=tree.num_regions).astype(np.int64)
    if (row := _first((held != counts) & ~tree.is_leaf)) is not None:
        what = f"has {counts[row]:,} points, and its children hold {held[row]:,}"
        raise tree_error(source, region_path(tree.parent, row), what)
