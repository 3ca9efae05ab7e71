"""Nested dicts become a flat region tree, or are refused with the path of the first bad region, at little cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL
from unit.data.scenes.trees.example_trees import Nested, assert_equal, example, nested, region


def test_nested_dicts_become_flat_arrays_in_depth_first_order() -> None:
    tree = tree_from_nested(example(), 10)
    assert tree.parent.tolist() == [-1, 0, 1, 1, 0, 0, 5, 5]
    assert tree.level.tolist() == [0, 1, 2, 2, 1, 1, 2, 2]
    assert tree.center_idx.tolist() == [0, 0, 0, 1, 3, 5, 9, 6]
    assert tree.indices_ptr.tolist() == [0, 10, 13, 14, 16, 18, 23, 25, 28]
    assert tree.region(6).tolist() == [9, 5]
    assert tree.region(7).tolist() == [6, 8, 7]
    assert tree.is_leaf.tolist() == [False, False, True, True, True, False, True, True]
    assert (tree.num_regions, tree.num_levels, tree.num_points.tolist()) == (8, 3, [10, 3, 1, 2, 2, 5, 2, 3])
    for name in ("parent", "level", "center_idx", "indices"):
        assert getattr(tree, name).dtype == np.int32
    assert tree.indices_ptr.dtype == np.int64


@pytest.mark.parametrize("convert", [list, tuple, np.ndarray.tolist, np.asarray, np.uint16], ids=lambda c: c.__name__)
def test_indices_may_be_lists_or_arrays(convert: Callable[[np.ndarray], Any]) -> None:
    tree = build_tree(np.random.default_rng(1).random((500, 3)))
    root = nested(tree, convert)
    assert_equal(tree_from_nested(root, 500), tree)
    root["center_idx"], root["level"] = np.int32(tree.center_idx[0]), np.int64(0)
    root["children"] = tuple(root["children"])
    assert_equal(tree_from_nested(root, 500), tree)


def test_a_leaf_may_have_no_list_of_children() -> None:
    for leaf in ({"indices": [0], "center_idx": 0, "level": 0}, {**region([0], 0), "children": None}):
        assert tree_from_nested(leaf, 1).num_regions == 1


def at(root: Nested, *positions: int) -> Nested:
    for position in positions:
        root = root["children"][position]
    return root


def changed(*positions: int, **values: Any) -> Nested:
    root = example()
    at(root, *positions).update(values)
    return root


def cyclic() -> Nested:
    root = example()
    at(root, 2, 1)["children"] = [at(root, 2)]
    return root


def own_child() -> Nested:
    root = region(list(range(10)), 0)
    root["children"] = [root]
    return root


def shared_child() -> Nested:
    root = example()
    root["children"][1] = at(root, 0, 1)
    return root


def without(key: str, *positions: int) -> Nested:
    root = example()
    del at(root, *positions)[key]
    return root


NOT_INTEGERS = "has indices that are not a list of integers"
CHILDREN = "has children that do not contain each of its points exactly once"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (cyclic(), "root/2/1 has 3 points, but its children contain 5"),
        (shared_child(), f"root {CHILDREN} (first at point 1)"),
        (own_child(), "root/0 has level 0, not 1"),
        (changed(0, 1, indices=[1, 10]), f"root/0 {CHILDREN} (first at point 2)"),
        (changed(0, 1, indices=[1, -2]), f"root/0 {CHILDREN} (first at point -2)"),
        (changed(0, 1, indices=[1, 1]), f"root/0 {CHILDREN} (first at point 1)"),
        (changed(0, 1, indices=[1, 0]), f"root/0 {CHILDREN} (first at point 0)"),
        (changed(0, 1, indices=[1]), "root/0 has 3 points, but its children contain 2"),
        (changed(0, 1, indices=[1, 2, 0]), "root/0 has 3 points, but its children contain 4"),
        (changed(0, 1, indices=[]), "root/0/1 contains no points"),
        (changed(0, 1, indices=np.zeros(0)), "root/0/1 contains no points"),
        (changed(indices=[*range(10), 9]), "root contains 11 points, but the scene has 10"),
        (changed(indices=[*range(9), 8]), "root does not contain each of the points 0 to 9 exactly once"),
        (changed(2, level=2), "root/2 has level 2, not 1"),
        (changed(2, level=1.0), "root/2 has a level that is not a 64-bit integer"),
        (changed(2, 1, center_idx=5), "root/2/1 has its center at point 5, which it does not contain"),
        (changed(2, 1, center_idx=10**6000), "root/2/1 has a center_idx that is not a 64-bit integer"),
        (changed(2, 1, center_idx=np.array([6, 7])), "root/2/1 has a center_idx that is not a 64-bit integer"),
        (changed(1, children={}), "root/1 has children of type dict, not a list"),
        (changed(1, children=[region([3], 2)] * 2), f"root/1 {CHILDREN} (first at point 3)"),
        (changed(1, children=[None, None]), "root/1/0 is of type NoneType, not a dict"),
        (changed(1, children=[{}] * 10**6), "root/1 has 1,000,000 children and 2 points"),
        (without("indices", 2, 0), "root/2/0 has no indices"),
        (without("center_idx", 2, 0), "root/2/0 has no center_idx"),
        (changed(0, 1, indices="12"), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=[1.0, 2.0]), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=[1, 10**6000]), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([1.0, 2.0])), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([[1, 2]])), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([1, 2**63], dtype=np.uint64)), f"root/0 {CHILDREN} (first at point -"),
        ([example()], "root is of type list, not a dict"),
    ],
)  # fmt: skip
def test_a_damaged_nested_tree_is_refused_with_the_path(root: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        tree_from_nested(root, 10, "room.pkl")
    assert caught.value.message.startswith(f"room.pkl: region {message}")
    assert caught.value.hint


def test_a_scene_with_more_points_than_the_tree_is_refused() -> None:
    with pytest.raises(DataError, match="region root contains 10 points, but the scene has 11"):
        tree_from_nested(example(), 11)


def chain(length: int, num_points: int = 2) -> Nested:
    """Regions of the same points, each the only child of the one above it."""
    points, below = list(range(num_points)), None
    for level in reversed(range(length)):
        below = region(points, level, *([below] if below else []))
    assert below is not None
    return below


def test_the_deepest_tree_is_read_and_one_level_more_is_refused() -> None:
    assert tree_from_nested(chain(MAX_LEVEL + 1), 2).num_levels == MAX_LEVEL + 1
    with pytest.raises(DataError, match=rf"region root(/0){{{MAX_LEVEL + 1}}} lies deeper than level {MAX_LEVEL}"):
        tree_from_nested(chain(MAX_LEVEL + 2), 2)


def huge_lists() -> Nested:
    everything = list(range(100_000))
    root = region(everything, 0)
    root["children"] = [{"indices": everything, "center_idx": 0, "level": 1} for _ in range(99_999)]
    root["children"].append(None)
    return root


def huge_array() -> Nested:
    return {"indices": np.broadcast_to(0, 10**12), "center_idx": 0, "level": 0}


def nested_lists() -> Nested:
    inner = [0] * 10**6
    return {"indices": [inner] * 10**5, "center_idx": 0, "level": 0}


@pytest.mark.parametrize(
    ("make", "num_points"),
    [
        (lambda: chain(100_000, 2000), 2000),
        (huge_lists, 100_000),
        (huge_array, 1000),
        (nested_lists, 10**6),
    ],
    ids=["deep", "lists", "array", "nested"],
)
def test_a_tree_made_to_exhaust_memory_is_refused(make: Callable[[], Nested], num_points: int) -> None:
    root = make()
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            tree_from_nested(root, num_points)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
