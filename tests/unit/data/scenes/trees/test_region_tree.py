from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL, RegionTree, check_tree, cut_tree, region_path

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
    """What `check_tree` decides, decided slowly and by other means."""
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


# Flat trees


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
    assert [region_path(tree.parent, row) for row in (0, 3, 4, 7)] == ["root", "root/0/1", "root/1", "root/2/1"]
    for name in ("parent", "level", "center_idx", "indices"):
        assert getattr(tree, name).dtype == np.int32
    assert tree.indices_ptr.dtype == np.int64


def test_a_tree_is_cut_to_fewer_levels() -> None:
    tree = tree_from_nested(example(), 10)
    cut = cut_tree(tree, 1)
    assert cut.parent.tolist() == [-1, 0, 0, 0]
    assert cut.level.tolist() == [0, 1, 1, 1]
    assert cut.center_idx.tolist() == [0, 0, 3, 5]
    assert [cut.region(row).tolist() for row in (1, 2, 3)] == [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]]
    check_tree(cut, 10)
    assert cut_tree(tree, 0).num_regions == 1
    assert cut_tree(tree, 2) is tree


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_cut_tree_is_the_tree_that_is_built_less_deep(depth: int) -> None:
    coord = np.random.default_rng(0).random((3000, 3))
    assert_equal(cut_tree(build_tree(coord, max_depth=4), depth), build_tree(coord, max_depth=depth))


@pytest.mark.parametrize("seed", range(4))
def test_the_check_of_a_flat_tree_agrees_with_a_slow_one_on_random_damage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coord = rng.random((60, 3))
    tree = build_tree(coord, max_depth=2, min_region_points=2)
    assert is_tree(tree, 60)
    check_tree(tree, 60)
    verdicts = []
    for _ in range(300):
        name = ARRAYS[rng.integers(len(ARRAYS))]
        array = getattr(tree, name).copy()
        if rng.random() < 0.5:
            first, second = rng.integers(len(array), size=2)
            array[[first, second]] = array[[second, first]]
        else:
            array[rng.integers(len(array))] += rng.choice([-60, -2, -1, 1, 2, 60])
        damaged = replace(tree, **{name: array})
        try:
            check_tree(damaged, 60)
            accepted = True
        except DataError:
            accepted = False
        assert accepted == is_tree(damaged, 60), (name, array)
        verdicts.append(accepted)
    assert 0 < sum(verdicts) < len(verdicts) / 2  # swapping points within a region is no damage


def flat(**arrays: list[int]) -> RegionTree:
    """The example with some of its arrays replaced."""
    tree = tree_from_nested(example(), 10)
    return replace(tree, **{name: np.array(values) for name, values in arrays.items()})


def points_with(place: int, point: int) -> list[int]:
    indices = tree_from_nested(example(), 10).indices.tolist()
    indices[place] = point
    return indices


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (flat(parent=[0, 0, 1, 1, 0, 0, 5, 5]), "region root has parent 0 and level 0, not -1 and 0"),
        (flat(parent=[-1, 0, 1, 7, 0, 0, 5, 5]), "region in row 3 has parent 7, which is no row before it"),
        (flat(parent=[-1, 0, 1, -1, 0, 0, 5, 5]), "region in row 3 has parent -1, which is no row before it"),
        (flat(level=[0, 1, 2, 2, 1, 1, 2, 3]), "region root/2/1 has level 3, not 2"),
        (flat(parent=[-1, 0, 1, 1, 0, 0, 5, 1]), "region root/0/2 is not in depth-first order"),
        (flat(indices=points_with(27, 10)), "region root/2/1 holds point 10, and the scene has points 0 to 9"),
        (flat(indices=points_with(13, -1)), "region root/0/0 holds point -1, and the scene has points 0 to 9"),
        (flat(indices=points_with(0, 1), center_idx=[1, 0, 0, 1, 3, 5, 9, 6]), "region root holds point 1 twice"),
        (flat(indices=points_with(16, 4)), "region root/1 has its center at point 3, which it does not hold"),
        (flat(indices=points_with(15, 0)), "region root/0/1 holds point 0, which region root/0/0 holds too"),
        (flat(indices=points_with(14, 3)), "region root/0/1 has its center at point 1, which it does not hold"),
        (flat(indices=points_with(15, 3)), "region root/0/1 holds point 3, which its parent does not hold"),
        (flat(center_idx=[0, 0, 0, 1, 5, 5, 9, 6]), "region root/1 has its center at point 5, which it does not hold"),
        (flat(indices_ptr=[0, 10, 13, 14, 16, 16, 23, 25, 28]), "region root/1 holds no points"),
        (flat(indices_ptr=[0, 10, 13, 14, 16, 18, 23, 25, 27]), "indices_ptr does not rise from 0 to 28"),
        (flat(indices_ptr=[0, 10, 13, 14, 13, 18, 23, 25, 28]), "indices_ptr does not rise from 0 to 28"),
        (flat(level=[0, 1, 2]), "its arrays do not fit together"),
    ],
)
def test_a_damaged_flat_tree_is_refused_with_the_path(tree: RegionTree, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_tree(tree, 10, "room.npz")
    assert caught.value.message.startswith(f"room.npz: {message}")


def test_an_order_that_is_not_depth_first_is_refused_though_every_parent_is_right() -> None:
    by_level = ([-1, 0, 0, 1], [0, 1, 1, 2], [0, 0, 1, 0], [0, 1, 0, 1, 0], [0, 2, 3, 4, 5])
    tree = RegionTree(*(np.array(values) for values in by_level))
    with pytest.raises(DataError, match="region root/0/0 is not in depth-first order"):
        check_tree(tree, 2)
    late = ([-1, 0, 1, 0, 2], [0, 1, 2, 1, 3], [0, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0], [0, 2, 3, 4, 5, 6])
    tree = RegionTree(*(np.array(values) for values in late))
    with pytest.raises(DataError, match="region root/0/0/0 is not in depth-first order"):
        check_tree(tree, 2)


def test_a_flat_tree_without_one_of_its_regions_is_refused() -> None:
    without_root_0_1 = ([-1, 0, 1, 0], [0, 1, 2, 1], [0, 0, 0, 3], [0, 1, 2, 3, 4, 0, 1, 2, 0, 3, 4], [0, 5, 8, 9, 11])
    tree = RegionTree(*(np.array(values) for values in without_root_0_1))
    with pytest.raises(DataError, match="region root/0 has 3 points, and its children hold 1"):
        check_tree(tree, 5)


def test_a_flat_tree_without_some_points_or_of_another_type_is_refused() -> None:
    tree = tree_from_nested(example(), 10)
    with pytest.raises(DataError, match="region root holds 10 points, and the scene has 11"):
        check_tree(tree, 11)
    with pytest.raises(DataError, match="do not fit together"):
        check_tree(replace(tree, level=tree.level.astype(np.float32)), 10)


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_the_golden_trees_pass_and_are_rebuilt_from_their_coordinates(golden: Path, mode: str) -> None:
    with np.load(golden / f"dbbd_{mode}.npz") as stored:
        for scene, (start, stop) in enumerate(zip(stored["offset"][:-1], stored["offset"][1:], strict=True)):
            tree = RegionTree(*(stored[f"tree{scene}/{name}"] for name in ARRAYS))
            check_tree(tree, int(stop - start))
            assert_equal(build_tree(stored["view1/coord"][start:stop], max_depth=3, min_region_points=8), tree)
            assert_equal(tree_from_nested(nested(tree), int(stop - start)), tree)


# Nested trees


@pytest.mark.parametrize(
    "convert", [list, tuple, np.ndarray.tolist, np.asarray, np.uint16, torch.from_numpy], ids=lambda c: c.__name__
)
def test_indices_may_be_lists_arrays_or_tensors(convert: Callable[[np.ndarray], Any]) -> None:
    tree = build_tree(np.random.default_rng(1).random((500, 3)))
    root = nested(tree, convert)
    assert_equal(tree_from_nested(root, 500), tree)
    root["center_idx"], root["level"] = torch.tensor(int(tree.center_idx[0])), np.int64(0)
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


def shared_child() -> Nested:
    root = example()
    root["children"][1] = at(root, 0, 1)
    return root


def without(key: str, *positions: int) -> Nested:
    root = example()
    del at(root, *positions)[key]
    return root


NOT_INTEGERS = "has indices that are no list of integers"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (cyclic(), "root/2/1/0 is a cycle: it is its own ancestor root/2"),
        (shared_child(), "root/1 is at the same time region root/0/1"),
        (changed(0, 1, indices=[1, 10]), "root/0/1 holds point 10, and the scene has points 0 to 9"),
        (changed(0, 1, indices=[1, -2]), "root/0/1 holds point -2, and the scene has points 0 to 9"),
        (changed(0, 1, indices=[1, 1]), "root/0/1 holds point 1 twice"),
        (changed(0, 1, indices=[1, 0]), "root/0/1 holds point 0, which region root/0/0 holds too"),
        (changed(0, 1, indices=[1, 3]), "root/0/1 holds point 3, which its parent does not hold"),
        (changed(0, 1, indices=[1]), "root/0 has 3 points, and its children hold 2"),
        (changed(0, 1, indices=[1, 2, 0]), "root/0 has 3 points, and its children hold 4"),
        (changed(0, 1, indices=[]), "root/0/1 holds no points"),
        (changed(0, 1, indices=np.zeros(0)), "root/0/1 holds no points"),
        (changed(indices=list(range(9))), "root has 9 points, and its children hold 10"),
        (changed(indices=[*range(10), 9]), "root holds 11 points, and the scene has 10"),
        (changed(indices=[*range(9), 8], center_idx=8), "root holds point 8 twice"),
        (changed(2, level=2), "root/2 has level 2, not 1"),
        (changed(2, level=0), "root/2 has level 0, not 1"),
        (changed(2, level=1.0), "root/2 has a level that is no integer"),
        (changed(2, level=None), "root/2 has a level that is no integer"),
        (changed(2, 1, center_idx=5), "root/2/1 has its center at point 5, which it does not hold"),
        (changed(2, 1, center_idx=-1), "root/2/1 has its center at point -1, which it does not hold"),
        (changed(2, 1, center_idx=10**6000), "root/2/1 has a center_idx of more than 64 bits"),
        (changed(2, 1, center_idx=torch.tensor([6, 7])), "root/2/1 has a center_idx that is no integer"),
        (changed(1, children={}), "root/1 has children of type dict, not a list"),
        (changed(1, children=[region([3], 2)] * 2), "root/1/1 is at the same time region root/1/0"),
        (changed(1, children=[None, None]), "root/1/0 is of type NoneType, not a dict"),
        (changed(1, children=[{}] * 10**6), "root/1 has 1,000,000 children and 2 points"),
        (without("indices", 2, 0), "root/2/0 has no indices"),
        (without("center_idx", 2, 0), "root/2/0 has no center_idx"),
        (without("level", 2, 0), "root/2/0 has no level"),
        (changed(0, 1, indices="12"), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=12), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=[1.0, 2.0]), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=[1, 10**6000]), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([1.0, 2.0])), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([[1, 2]])), f"root/0/1 {NOT_INTEGERS}"),
        (changed(0, 1, indices=np.array([1, 2**63], dtype=np.uint64)), "root/0/1 holds point 9223372036854775808"),
        (changed(0, 1, indices=torch.tensor([1, 2]).to_sparse()), f"root/0/1 {NOT_INTEGERS}"),
        ([example()], "root is of type list, not a dict"),
    ],
)  # fmt: skip
def test_a_damaged_nested_tree_is_refused_with_the_path(root: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        tree_from_nested(root, 10, "room.pkl")
    assert caught.value.message.startswith(f"room.pkl: region {message}")
    assert caught.value.hint


def test_a_scene_with_more_points_than_the_tree_is_refused() -> None:
    with pytest.raises(DataError, match="region root holds 10 points, and the scene has 11"):
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


def own_child() -> Nested:
    root = region([0, 1], 0)
    root["children"] = [root]
    return root


def huge_lists() -> Nested:
    everything = list(range(100_000))
    root = region(everything, 0)
    root["children"] = [{"indices": everything, "center_idx": 0, "level": 1} for _ in range(99_999)]
    root["children"].append(None)
    return root


def huge_tensor() -> Nested:
    return {"indices": torch.zeros(1, dtype=torch.long).expand(10**12), "center_idx": 0, "level": 0}


def nested_lists() -> Nested:
    inner = [0] * 10**6
    return {"indices": [inner] * 10**5, "center_idx": 0, "level": 0}


@pytest.mark.parametrize(
    ("make", "num_points"),
    [
        (lambda: chain(100_000, 2000), 2000),
        (own_child, 2),
        (huge_lists, 100_000),
        (huge_tensor, 1000),
        (nested_lists, 10**6),
    ],
    ids=["deep", "cycle", "lists", "tensor", "nested"],
)
def test_a_tree_made_to_exhaust_the_machine_is_refused_at_once(make: Callable[[], Nested], num_points: int) -> None:
    root = make()
    start = time.process_time()
    with pytest.raises(DataError):
        tree_from_nested(root, num_points)
    assert time.process_time() - start < 2
