"""A small region tree as nested dicts, the conversion of any tree to them, and what a valid tree is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.trees.region_tree import RegionTree

ARRAYS = ("parent", "level", "center_idx", "indices", "indices_ptr")
Nested = dict[str, Any]


def region(indices: list[int], level: int, *children: Nested) -> Nested:
    return {"indices": indices, "center_idx": indices[0], "level": level, "children": list(children)}


def example() -> Nested:
    """Ten points; region root/1 is a leaf, regions root/0 and root/2 are not."""
    return region(
        list(range(10)),
        0,
        region([0, 1, 2], 1, region([0], 2), region([1, 2], 2)),
        region([3, 4], 1),
        region([5, 6, 7, 8, 9], 1, region([9, 5], 2), region([6, 8, 7], 2)),
    )


def nested(tree: RegionTree, convert: Callable[[np.ndarray], Any] = np.asarray) -> Nested:
    nodes = [
        {
            "indices": convert(tree.region(row)),
            "center_idx": int(tree.center_idx[row]),
            "level": int(tree.level[row]),
            "children": [],
        }
        for row in range(tree.num_regions)
    ]
    for row in range(1, tree.num_regions):
        nodes[tree.parent[row]]["children"].append(nodes[row])
    return nodes[0]


def assert_equal(first: RegionTree, second: RegionTree) -> None:
    for name in ARRAYS:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def is_tree(tree: RegionTree, num_points: int) -> bool:
    """Whether a tree is what `RegionTree` promises, with children that divide the points of their parents."""
    ptr, regions = tree.indices_ptr, len(tree.parent)
    if ptr[0] != 0 or ptr[-1] != len(tree.indices) or any(ptr[r] >= ptr[r + 1] for r in range(regions)):
        return False
    points = [tree.indices[ptr[r] : ptr[r + 1]].tolist() for r in range(regions)]
    children: list[list[int]] = [[] for _ in range(regions)]
    for row, parent in enumerate(tree.parent.tolist()):
        if parent != -1 if row == 0 else not 0 <= parent < row:
            return False
        if row:
            children[parent].append(row)

    visited = []

    def visit(row: int, level: int) -> bool:
        visited.append(row)
        if tree.level[row] != level or tree.center_idx[row] not in points[row]:
            return False
        held = sorted(point for child in children[row] for point in points[child])
        if children[row] and held != sorted(points[row]):
            return False
        return all(visit(child, level + 1) for child in children[row])

    return sorted(points[0]) == list(range(num_points)) and visit(0, 0) and visited == list(range(regions))
