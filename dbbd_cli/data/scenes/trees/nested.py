"""Read a region tree from nested dicts, which may hold anything, into flat arrays.

Legend: N points of the scene.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL, RegionTree, check_tree, region_path, tree_error

_NOT_INTEGERS = "has indices that are not a list of integers"


def tree_from_nested(root: object, num_points: int, source: str = "region tree") -> RegionTree:
    """Flatten nested dicts with `indices`, `center_idx`, `level` and `children`, and check that they are a valid tree.

    The cost is bounded by the points of the scene and the size of the file: a region is read only after the sizes of
    its siblings are known to fit into their parent, and a region that was read before, or is too deep, is refused.

    Args:
        root: the region of the whole scene.
        num_points: N.
        source: name of the tree's file, for the message.

    Raises:
        DataError: the tree is invalid; the message has the path of the first bad region.
    """
    reader = _Reader(num_points, source)
    reader.read(root)
    counts = [len(points) for points in reader.indices]
    tree = RegionTree(
        parent=np.array(reader.parent, dtype=np.int32),
        level=np.array(reader.level, dtype=np.int32),
        center_idx=np.array(reader.center_idx, dtype=np.int32),
        indices=np.concatenate(reader.indices),
        indices_ptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
    )
    check_tree(tree, num_points, source)
    return tree


class _Reader:
    """The regions read so far, in depth-first pre-order."""

    def __init__(self, num_points: int, source: str) -> None:
        self.num_points = num_points
        self.source = source
        self.parent: list[int] = []
        self.level: list[int] = []
        self.center_idx: list[int] = []
        self.indices: list[np.ndarray] = []
        self.row_of: dict[int, int] = {}  # by the id of the dict

    def read(self, root: object) -> None:
        """Read the root and all regions below it, without recursion, because a file may be nested deeply."""
        waiting = [(self.new_region(root, -1, 0), -1, 0)]  # region, row of its parent, position among its siblings
        while waiting:
            region, parent, position = waiting.pop()
            self.new_region(region, parent, position)  # a sibling may be the same dict
            row = self.add(region, parent, position)
            waiting.extend((child, row, number) for number, child in reversed(self.children(region, row)))

    def new_region(self, region: object, parent: int, position: int) -> Mapping[Any, Any]:
        """Return a dict that looks like a region and was not read before."""
        if not isinstance(region, Mapping):
            self.fail(parent, position, f"is of type {type(region).__name__}, not a dict")
        if (row := self.row_of.get(id(region))) is not None:
            what = "is a cycle: it is its own ancestor" if self.is_above(row, parent) else "is the same dict as region"
            self.fail(parent, position, f"{what} {self.path(row)}")
        for key in ("indices", "center_idx", "level"):
            if key not in region:
                self.fail(parent, position, f"has no {key}")
        count = _length(region["indices"])
        if count < 1:
            self.fail(
                parent, position, "holds no points" if count == 0 else "has indices that are not a list of integers"
            )
        if count > self.num_points:
            self.fail(parent, position, f"holds {count:,} points, and the scene has {self.num_points:,}")
        return region

    def add(self, region: Mapping[Any, Any], parent: int, position: int) -> int:
        """Read a region without its children; returns its row."""
        level = self.level[parent] + 1 if parent >= 0 else 0
        if level > MAX_LEVEL:
            self.fail(parent, position, f"lies deeper than level {MAX_LEVEL}")
        try:
            indices = _integers(region["indices"])
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            self.fail(parent, position, f"{_NOT_INTEGERS}: {error}")
        for point in (int(indices.min()), int(indices.max())):
            if not 0 <= point < self.num_points:
                last = self.num_points - 1
                self.fail(parent, position, f"holds point {point}, and the scene has points 0 to {last}")
        center_idx = self.integer(region, "center_idx", parent, position)
        if not 0 <= center_idx < self.num_points:
            self.fail(parent, position, f"has its center at point {center_idx}, which it does not hold")
        if (stored := self.integer(region, "level", parent, position)) != level:
            self.fail(parent, position, f"has level {stored}, not {level}")
        self.row_of[id(region)] = len(self.parent)
        self.parent.append(parent)
        self.level.append(level)
        self.center_idx.append(center_idx)
        self.indices.append(indices.astype(np.int32))
        return len(self.parent) - 1

    def children(self, region: Mapping[Any, Any], row: int) -> list[tuple[int, Mapping[Any, Any]]]:
        """The children of a region with their positions, after checking that their sizes add up to its own."""
        children = region.get("children")
        if children is None:
            return []
        if not isinstance(children, list | tuple):
            raise tree_error(self.source, self.path(row), f"has children of type {type(children).__name__}, not a list")
        size = len(self.indices[row])
        if len(children) > size:
            raise tree_error(self.source, self.path(row), f"has {len(children):,} children and {size:,} points")
        found = [(number, self.new_region(child, row, number)) for number, child in enumerate(children)]
        held = sum(_length(child["indices"]) for _, child in found)
        if found and held != size:
            raise tree_error(self.source, self.path(row), f"has {size:,} points, and its children hold {held:,}")
        return found

    def integer(self, region: Mapping[Any, Any], key: str, parent: int, position: int) -> int:
        try:
            value = operator.index(region[key])
        except (TypeError, ValueError, RuntimeError):
            self.fail(parent, position, f"has a {key} that is not an integer")
        if abs(value) >= 1 << 63:
            self.fail(parent, position, f"has a {key} of more than 64 bits")
        return value

    def is_above(self, row: int, below: int) -> bool:
        """Whether a region is another one or an ancestor of it."""
        while below > row:
            below = self.parent[below]
        return below == row

    def path(self, row: int) -> str:
        return region_path(np.array(self.parent), row)

    def fail(self, parent: int, position: int, what: str) -> NoReturn:
        """Raise the error for the child of `parent` at a position, which was not added."""
        raise tree_error(self.source, f"{self.path(parent)}/{position}" if parent >= 0 else "root", what)


def _length(values: Any) -> int:
    """The length of a list, or of a one-dimensional array or tensor; -1 for anything else."""
    if isinstance(values, list | tuple):
        return len(values)
    shape = getattr(values, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) == 1 else -1


def _integers(values: Any) -> np.ndarray:
    """A list, array or tensor of integers as an integer array.

    Raises:
        TypeError, ValueError, OverflowError, RuntimeError: it is something else, or a tensor without plain values.
    """
    if isinstance(values, list | tuple):
        return np.fromiter(map(operator.index, values), dtype=np.int64, count=len(values))
    if not isinstance(values, np.ndarray):
        values = values.detach().cpu().numpy()
    if values.dtype.kind not in "iu":
        raise TypeError(f"they are of type {values.dtype}")
    return values
