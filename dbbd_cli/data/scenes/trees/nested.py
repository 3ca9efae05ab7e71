"""Read a region tree from nested dicts, which may hold anything, into flat arrays.

Legend: N points of the scene.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL, RegionTree

_NOT_INTEGERS = "has indices that are not a list of integers"


class _Region(NamedTuple):
    """A region whose points were checked against those of its parent.

    Attributes:
        content: the dict.
        indices: its points.
        parent: row of its parent, -1 for the root.
        path: positions among siblings from the root, such as `root/3/0`.
    """

    content: Mapping[Any, Any]
    indices: np.ndarray
    parent: int
    path: str


def tree_from_nested(root: object, num_points: int, source: str = "region tree") -> RegionTree:
    """Flatten nested dicts with `indices`, `center_idx`, `level` and `children`, and check that they are a valid tree.

    In a valid tree the root contains every point once, and children hold each point of their parent once.
    The cost is bounded by the points of the scene and the size of the file: indices are read only after their number
    is known to fit, and regions that are too deep are refused.

    Args:
        root: the region of the whole scene.
        num_points: N.
        source: name of the tree's file, for the message.

    Raises:
        DataError: the tree is invalid; the message has the path of the first bad region.
    """
    return _Reader(num_points, source).read(root)


class _Reader:
    """The regions read so far, in depth-first pre-order."""

    def __init__(self, num_points: int, source: str) -> None:
        self.num_points = num_points
        self.source = source
        self.parent: list[int] = []
        self.level: list[int] = []
        self.center_idx: list[int] = []
        self.indices: list[np.ndarray] = []

    def read(self, root: object) -> RegionTree:
        """Read all regions, without recursion, because a file may be nested deeply."""
        count = self.length(root, "root")
        if count != self.num_points:
            self.fail("root", f"contains {count:,} points, but the scene has {self.num_points:,}")
        waiting = self.regions([(root, "root")], -1, np.arange(self.num_points))
        while waiting:
            region = waiting.pop()
            self.add(region)
            waiting.extend(reversed(self.children(region, len(self.parent) - 1)))
        counts = [len(points) for points in self.indices]
        return RegionTree(
            parent=np.array(self.parent, dtype=np.int32),
            level=np.array(self.level, dtype=np.int32),
            center_idx=np.array(self.center_idx, dtype=np.int32),
            indices=np.concatenate(self.indices),
            indices_ptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        )

    def length(self, region: object, path: str) -> int:
        """The number of points of a region, without reading them."""
        if not isinstance(region, Mapping):
            self.fail(path, f"is of type {type(region).__name__}, not a dict")
        for key in ("indices", "center_idx", "level"):
            if key not in region:
                self.fail(path, f"has no {key}")
        indices = region["indices"]
        if (isinstance(indices, np.ndarray) and indices.ndim != 1) or not isinstance(
            indices, list | tuple | np.ndarray
        ):
            self.fail(path, _NOT_INTEGERS)
        if len(indices) == 0:
            self.fail(path, "contains no points")
        return len(indices)

    def regions(self, named: list[tuple[Any, str]], parent: int, required: np.ndarray) -> list[_Region]:
        """Read the points of siblings, whose number is known to fit; they must be the `required` points."""
        regions = [_Region(content, self.points(content, path), parent, path) for content, path in named]
        held, required = np.sort(np.concatenate([region.indices for region in regions])), np.sort(required)
        if not np.array_equal(held, required):
            first = int((held != required).argmax())
            where = f"exactly once (first at point {min(held[first], required[first])})"
            if parent < 0:
                self.fail("root", f"does not contain each of the points 0 to {self.num_points - 1} {where}")
            above = named[0][1].rpartition("/")[0]
            self.fail(above, f"has children that do not contain each of its points {where}")
        return regions

    def points(self, region: Mapping[Any, Any], path: str) -> np.ndarray:
        values = region["indices"]
        try:
            if isinstance(values, np.ndarray):
                if values.dtype.kind not in "iu":
                    raise TypeError(f"they are of type {values.dtype}")
                return values.astype(np.int64)
            return np.fromiter(map(operator.index, values), dtype=np.int64, count=len(values))
        except (TypeError, ValueError, OverflowError) as error:
            self.fail(path, f"{_NOT_INTEGERS}: {error}")

    def add(self, region: _Region) -> None:
        level = self.level[region.parent] + 1 if region.parent >= 0 else 0
        if level > MAX_LEVEL:
            self.fail(region.path, f"lies deeper than level {MAX_LEVEL}")
        center_idx = self.integer(region, "center_idx")
        if not (region.indices == center_idx).any():
            self.fail(region.path, f"has its center at point {center_idx}, which it does not contain")
        if (stored := self.integer(region, "level")) != level:
            self.fail(region.path, f"has level {stored}, not {level}")
        self.parent.append(region.parent)
        self.level.append(level)
        self.center_idx.append(center_idx)
        self.indices.append(region.indices.astype(np.int32))

    def children(self, region: _Region, row: int) -> list[_Region]:
        """The children of a region, in order."""
        children = region.content.get("children")
        if children is None:
            return []
        if not isinstance(children, list | tuple):
            self.fail(region.path, f"has children of type {type(children).__name__}, not a list")
        size = len(region.indices)
        if len(children) > size:
            self.fail(region.path, f"has {len(children):,} children and {size:,} points")
        named = [(child, f"{region.path}/{number}") for number, child in enumerate(children)]
        held = sum(self.length(child, path) for child, path in named)
        if named and held != size:
            self.fail(region.path, f"has {size:,} points, but its children contain {held:,}")
        return self.regions(named, row, region.indices) if named else []

    def integer(self, region: _Region, key: str) -> int:
        try:
            return int(np.int64(operator.index(region.content[key])))
        except (TypeError, ValueError, OverflowError):
            self.fail(region.path, f"has a {key} that is not a 64-bit integer")

    def fail(self, path: str, what: str) -> NoReturn:
        raise DataError(
            f"{self.source}: region {path} {what}",
            hint="fix the tree, or remove it from the scene: dbbd then builds one from the coordinates",
        )
