"""The built region tree is that of its definition, for any point cloud, and depends on the coordinates alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data.scenes.trees.builder import NUM_CHILDREN, build_tree
from dbbd_cli.data.scenes.trees.region_tree import RegionTree
from unit.data.scenes.trees.example_trees import ARRAYS, is_tree

CLOUDS = ["random", "duplicates", "line", "plane", "upright", "grid", "two heaps", "far", "tiny"]


def cloud(kind: str, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, count])
    points = rng.random((count, 3))
    if kind == "duplicates":
        return points[rng.integers(0, max(1, count // 4), count)]
    if kind == "line":
        return points[:, :1] * [1.0, 2.0, 3.0]
    if kind == "plane":
        return points * [1.0, 1.0, 0.0]
    if kind == "upright":
        return np.array([[0.0, 0.0, 1.0]]) * rng.integers(0, 50, (count, 1))
    if kind == "grid":
        return rng.integers(0, 4, (count, 3)).astype(np.float64)
    if kind == "two heaps":
        return np.repeat([[0.0, 0, 0], [1e6, 0, 0]], [count // 3, count - count // 3], axis=0) + (points > 0.9) * 1e-3
    if kind == "far":
        return points + np.array([5e5, 4e6, 300])
    if kind == "tiny":
        return points * 1e-200
    return points


def nearest_first(distance: np.ndarray) -> int:
    return int(np.flatnonzero(distance == distance.min())[0])


def slow_tree(coord: np.ndarray, max_depth: int, min_region_points: int) -> list[tuple[int, int, list[int]]]:
    """Level, center and points of each region, by recursion, straight from the definition."""
    regions = []

    def visit(points: np.ndarray, center: int, level: int) -> None:
        regions.append((level, center, points.tolist()))
        if level == max_depth or len(points) < 2 * min_region_points:
            return
        here = coord[points]
        centers = [nearest_first(((here - here.mean(axis=0)) ** 2).sum(axis=1))]
        while len(centers) < NUM_CHILDREN:
            gap = np.min([((here - here[c]) ** 2).sum(axis=1) for c in centers], axis=0)
            if gap.max() == 0:
                break
            centers.append(int(np.flatnonzero(gap == gap.max())[0]))
        if len(centers) == 1:
            return
        child = np.argmin([((here - here[c]) ** 2).sum(axis=1) for c in centers], axis=0)
        for number, c in enumerate(centers):
            visit(points[child == number], int(points[c]), level + 1)

    start = nearest_first(((coord - coord.mean(axis=0)) ** 2).sum(axis=1))
    visit(np.arange(len(coord)), start, 0)
    return regions


def regions_of(tree: RegionTree) -> list[tuple[int, int, list[int]]]:
    return [(int(tree.level[r]), int(tree.center_idx[r]), tree.region(r).tolist()) for r in range(tree.num_regions)]


def assert_built_right(coord: np.ndarray, *, max_depth: int, min_region_points: int) -> RegionTree:
    tree = build_tree(coord, max_depth=max_depth, min_region_points=min_region_points)
    assert is_tree(tree, len(coord))
    counts, leaf = tree.num_points, tree.is_leaf
    assert tree.num_levels <= max_depth + 1
    assert (counts[~leaf] >= 2 * min_region_points).all()
    children = np.bincount(tree.parent[1:], minlength=tree.num_regions)
    assert ((children == 0) | ((children >= 2) & (children <= NUM_CHILDREN))).all()
    for row in np.flatnonzero(leaf):
        places = len(np.unique(coord[tree.region(row)], axis=0))
        assert tree.level[row] == max_depth or counts[row] < 2 * min_region_points or places == 1
    for row in range(tree.num_regions):
        assert (np.diff(tree.region(row)) > 0).all()  # ascending
    return tree


@pytest.mark.parametrize("count", [700, 3000])
def test_the_tree_follows_the_definition(count: int) -> None:
    coord = np.random.default_rng(count).random((count, 3))
    tree = build_tree(coord, max_depth=4, min_region_points=4)
    assert tree.num_levels == 5
    assert regions_of(tree) == slow_tree(coord, 4, 4)


def test_ties_go_to_the_first_point_and_the_first_center() -> None:
    """On an integer grid around the origin, every distance is exact and many are equal."""
    axis = np.arange(-2.0, 3.0)
    coord = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    coord = np.random.default_rng(0).permutation(np.repeat(coord, 3, axis=0))
    tree = build_tree(coord, max_depth=1, min_region_points=2)
    assert regions_of(tree) == slow_tree(coord, 1, 2)


@pytest.mark.parametrize("kind", CLOUDS)
def test_small_and_large_clouds_have_trees(kind: str) -> None:
    for count in [*range(1, 21), 33, 150, 500]:
        for seed in range(2):
            coord = cloud(kind, count, seed)
            for min_region_points in (1, 3, 16):
                assert_built_right(coord, max_depth=3, min_region_points=min_region_points)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_coincident_points_are_a_single_region(dtype: type) -> None:
    for count in (1, 2, 40, 300):
        tree = build_tree(np.full((count, 3), 7, dtype=dtype))
        assert tree.num_regions == 1
        assert tree.center_idx.tolist() == [0]
        assert is_tree(tree, count)


def test_coincident_points_stay_together_and_few_places_give_few_children() -> None:
    places = np.array([[0.0, 0, 0], [1, 0, 0], [0, 5, 0]])
    of = np.random.default_rng(0).integers(0, 3, 100)
    tree = build_tree(places[of], max_depth=4, min_region_points=1)
    assert tree.level.tolist() == [0, 1, 1, 1]
    for row in (1, 2, 3):
        assert np.array_equal(tree.region(row), np.flatnonzero(of == of[tree.center_idx[row]]))


def test_the_tree_is_the_same_in_any_memory_layout() -> None:
    coord = np.random.default_rng(2).random((2000, 3)).astype(np.float32)
    first = build_tree(coord)
    wide = np.zeros((2000, 6), dtype=np.float32)
    wide[:, ::2] = coord
    for same in (coord.copy(), np.asfortranarray(coord), wide[:, ::2], coord.astype(np.float64), coord * 2.0**40):
        again = build_tree(same)
        for name in ARRAYS:
            assert np.array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize("offset", [2.0**22, -(2.0**40), 2.0**52])
def test_the_tree_does_not_depend_on_the_origin(offset: float) -> None:
    coord = np.random.default_rng(3).integers(0, 1024, (4000, 3)).astype(np.float64)  # the sum below is exact
    near, far = build_tree(coord), build_tree(coord + np.array([offset, -offset, offset / 4]))
    assert regions_of(near) == regions_of(far)


def test_the_settings_limit_the_tree() -> None:
    coord = np.random.default_rng(4).random((5000, 3))
    assert build_tree(coord, max_depth=0).num_regions == 1
    assert build_tree(coord, max_depth=1).num_regions == 1 + NUM_CHILDREN
    assert build_tree(coord[:31]).num_regions == 1
    assert build_tree(coord[:32]).num_levels == 2
    fine = assert_built_right(coord, max_depth=6, min_region_points=2)
    coarse = assert_built_right(coord, max_depth=6, min_region_points=100)
    assert fine.num_regions > 5 * coarse.num_regions


def test_clouds_at_the_limits_of_float_are_divided() -> None:
    coord = np.random.default_rng(5).random((200, 3)) - 0.5
    usual = regions_of(build_tree(coord))
    assert len(usual) > 10
    for scale in (2.0**1020, 2.0**-1000):
        assert regions_of(build_tree(coord * scale)) == usual


def test_a_real_scan_of_25000_points_has_about_2500_regions(shared: Path) -> None:
    with (shared / "data" / "scans" / "0.ply").open("rb") as file:
        while file.readline() != b"end_header\n":
            pass
        record = np.dtype([("coord", "<f4", 3), ("color", "u1", 3), ("intensity", "<f4"), ("label", "<f8")])
        coord = np.frombuffer(file.read(), dtype=record)["coord"]
    tree = assert_built_right(coord, max_depth=4, min_region_points=16)
    assert len(coord) == 25_000
    assert 1000 < tree.num_regions < 4000
