"""A flat region tree is accepted exactly if it is valid, and is cut to fewer levels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL, RegionTree, check_tree, cut_tree
from unit.data.scenes.trees.example_trees import ARRAYS, assert_equal, example, nested


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
def test_cutting_a_tree_equals_building_it_less_deep(depth: int) -> None:
    coord = np.random.default_rng(0).random((3000, 3))
    assert_equal(cut_tree(build_tree(coord, max_depth=4), depth), build_tree(coord, max_depth=depth))


@pytest.mark.parametrize("seed", range(4))
def test_the_check_agrees_with_a_slow_one_on_random_damage(seed: int) -> None:
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
    assert 0 < sum(verdicts) < len(verdicts) / 2  # swapping points within a region is harmless


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
        (flat(parent=[-1, 0, 1, 7, 0, 0, 5, 5]), "region in row 3 has parent 7, which is not an earlier row"),
        (flat(parent=[-1, 0, 1, -1, 0, 0, 5, 5]), "region in row 3 has parent -1, which is not an earlier row"),
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
        (flat(level=[0, 1, 2]), "its arrays have inconsistent types or shapes"),
    ],
)
def test_a_damaged_flat_tree_is_refused_with_the_path(tree: RegionTree, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_tree(tree, 10, "room.npz")
    assert caught.value.message.startswith(f"room.npz: {message}")


def test_another_order_of_a_valid_tree_is_refused() -> None:
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


def test_a_flat_tree_with_missing_points_or_another_type_is_refused() -> None:
    tree = tree_from_nested(example(), 10)
    with pytest.raises(DataError, match="region root holds 10 points, and the scene has 11"):
        check_tree(tree, 11)
    with pytest.raises(DataError, match="inconsistent types or shapes"):
        check_tree(replace(tree, level=tree.level.astype(np.float32)), 10)


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_golden_trees_are_valid_and_rebuilt_from_their_coordinates(golden: Path, mode: str) -> None:
    with np.load(golden / f"dbbd_{mode}.npz") as stored:
        for scene, (start, stop) in enumerate(zip(stored["offset"][:-1], stored["offset"][1:], strict=True)):
            tree = RegionTree(*(stored[f"tree{scene}/{name}"] for name in ARRAYS))
            check_tree(tree, int(stop - start))
            assert_equal(build_tree(stored["view1/coord"][start:stop], max_depth=3, min_region_points=8), tree)
            assert_equal(tree_from_nested(nested(tree), int(stop - start)), tree)


def test_a_flat_tree_that_is_too_deep_is_refused() -> None:
    count = MAX_LEVEL + 2
    rows = np.arange(count)
    tree = RegionTree(rows - 1, rows, np.zeros(count, int), np.zeros(count, int), np.arange(count + 1))
    with pytest.raises(DataError, match=f"lies deeper than level {MAX_LEVEL}"):
        check_tree(tree, 1)
