"""A small region tree as nested dicts, and the conversion of any tree to them."""

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
