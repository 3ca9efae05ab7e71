"""A region tree is cut to fewer levels, and the trees of the golden values are rebuilt exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import RegionTree, cut_tree
from unit.data.scenes.trees.example_trees import ARRAYS, assert_equal, example, is_tree, nested


def test_a_tree_is_cut_to_fewer_levels() -> None:
    tree = tree_from_nested(example(), 10)
    cut = cut_tree(tree, 1)
    assert cut.parent.tolist() == [-1, 0, 0, 0]
    assert cut.level.tolist() == [0, 1, 1, 1]
    assert cut.center_idx.tolist() == [0, 0, 3, 5]
    assert [cut.region(row).tolist() for row in (1, 2, 3)] == [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]]
    assert is_tree(cut, 10)
    assert cut_tree(tree, 0).num_regions == 1
    assert cut_tree(tree, 2) is tree


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_cutting_a_tree_equals_building_it_less_deep(depth: int) -> None:
    coord = np.random.default_rng(0).random((3000, 3))
    assert_equal(cut_tree(build_tree(coord, max_depth=4), depth), build_tree(coord, max_depth=depth))


@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_golden_trees_are_valid_and_rebuilt_from_their_coordinates(golden: Path, mode: str) -> None:
    with np.load(golden / f"dbbd_{mode}.npz") as stored:
        for scene, (start, stop) in enumerate(zip(stored["offset"][:-1], stored["offset"][1:], strict=True)):
            tree = RegionTree(*(stored[f"tree{scene}/{name}"] for name in ARRAYS))
            assert is_tree(tree, int(stop - start))
            assert_equal(build_tree(stored["view1/coord"][start:stop], max_depth=3, min_region_points=8), tree)
            assert_equal(tree_from_nested(nested(tree), int(stop - start)), tree)
