"""The points that views keep are as many, and where, as the settings say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dbbd_cli.data.scenes.cuts import Cuts, kept_points
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.region_tree import RegionTree


def scene(count: int = 600) -> tuple[np.ndarray, RegionTree]:
    coord = np.random.default_rng(5).random((count, 3)).astype(np.float32) * [4, 3, 2]
    return coord, build_tree(coord, max_depth=3, min_region_points=8)


def kept(sample: int = 0, epoch: int = 1, seed: int = 3, **cuts: Any) -> list[np.ndarray]:
    return kept_points(*scene(), Cuts(**cuts), seed=seed, epoch=epoch, sample=sample)


def test_without_cuts_every_view_has_every_point() -> None:
    assert not Cuts().cut_anything
    assert [mask.all() for mask in kept()] == [True, True]
    for cut in ({"point_dropout": 0.1}, {"mask": 0.1}, {"crop": 0.9}, {"local_views": 1}):
        assert Cuts(**cut).cut_anything  # type: ignore[arg-type]


def test_points_are_dropped_from_both_views_independently() -> None:
    first, second = kept(point_dropout=0.25)
    assert first.sum() == pytest.approx(450, abs=1)  # one point always stays
    assert second.sum() == pytest.approx(450, abs=1)
    assert (first & second).sum() == pytest.approx(0.75**2 * 600, abs=25)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_a_crop_is_the_nearest_points_in_the_plane(share: float) -> None:
    coord, _ = scene()
    first, second = kept(crop=share)
    assert first.all()
    assert second.sum() == np.ceil(share * 600)
    plane = coord[:, :2]
    distance = np.linalg.norm(plane[:, None] - plane[second], axis=2)
    # Of one of the points, all in the crop are nearer than all outside.
    assert any(distance[second, one].max() <= distance[~second, one].min() for one in range(second.sum()))


@pytest.mark.parametrize("level", [None, 1, 2])
def test_masked_regions_have_lost_all_points_and_others_none(level: int | None) -> None:
    _, tree = scene()
    first, second = kept(mask=0.4, mask_level=level)
    assert first.all()
    leaf = tree.is_leaf
    rows = [row for row in range(tree.num_regions) if (leaf[row] if level is None else tree.level[row] == level)]
    assert level is None or not (leaf & (tree.level < level)).any()
    shares = [second[tree.region(row)].mean() for row in rows]
    assert set(shares) == {0.0, 1.0}
    assert shares.count(0.0) == int(0.4 * len(rows))


def test_a_leaf_above_the_masked_level_is_masked_as_one() -> None:
    # The root has two leaves and an inner region with two leaves.
    tree = RegionTree(
        parent=np.array([-1, 0, 0, 2, 2, 0], dtype=np.int32),
        level=np.array([0, 1, 1, 2, 2, 1], dtype=np.int32),
        center_idx=np.array([0, 0, 2, 2, 4, 6], dtype=np.int32),
        indices=np.array([*range(8), 0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7], dtype=np.int32),
        indices_ptr=np.array([0, 8, 10, 14, 16, 18, 20]),
    )
    coord = np.random.default_rng(0).random((8, 3))
    seen = set()
    for epoch in range(40):
        _, second = kept_points(coord, tree, Cuts(mask=0.5, mask_level=2), seed=1, epoch=epoch, sample=0)
        pairs = second.reshape(4, 2)
        assert (pairs.all(axis=1) | ~pairs.any(axis=1)).all()
        assert pairs.any(axis=1).sum() == 2
        seen.add(tuple(pairs[:, 0].tolist()))
    assert len(seen) == 6  # every choice of two of the four


def test_masking_follows_cropping_and_dropout_follows_masking() -> None:
    _, tree = scene()
    _, cropped = kept(crop=0.5)
    _, masked = kept(crop=0.5, mask=0.5)
    _, all_cut = kept(crop=0.5, mask=0.5, point_dropout=0.5)
    assert (cropped | ~masked).all()
    assert (masked | ~all_cut).all()
    leaves = [tree.region(row) for row in np.flatnonzero(tree.is_leaf)]
    before, after = (sum(bool(mask[leaf].any()) for leaf in leaves) for mask in (cropped, masked))
    assert after == before - int(0.5 * before)
    assert all_cut.sum() == pytest.approx(masked.sum() / 2, abs=1.5)


def test_local_views_are_pieces_in_different_places_and_share_points_with_the_first() -> None:
    first, second, *local = kept(local_views=3, local_size=0.1, point_dropout=0.9)
    assert [part.sum() for part in local] == [60] * 3
    assert len({tuple(part) for part in local}) == 3
    for view in (second, *local):
        assert (first & view).any()
    # The first two views are the same, however many local ones there are, except for the points that always stay.
    again = kept(local_views=3, local_size=0.5, point_dropout=0.9)
    assert np.array_equal(again[0], first)


def test_the_smallest_scenes_keep_a_point_in_common() -> None:
    coord, tree = (
        np.random.default_rng(0).random((4, 3)),
        build_tree(np.zeros((4, 3)), max_depth=1, min_region_points=2),
    )
    everything = Cuts(point_dropout=0.99, mask=0.99, crop=0.01, local_views=2, local_size=0.01)
    for cuts in (everything, Cuts(point_dropout=0.99)):
        for epoch in range(50):
            first, *others = kept_points(coord, tree, cuts, seed=1, epoch=epoch, sample=0)
            assert all((first & other).any() for other in others)


def test_cuts_depend_on_seed_epoch_and_sample_alone() -> None:
    settings = {"point_dropout": 0.3, "mask": 0.3, "crop": 0.6, "local_views": 1}
    base = np.stack(kept(**settings))
    np.random.seed(9)
    assert np.array_equal(np.stack(kept(**settings)), base)
    for change in ({"seed": 4}, {"epoch": 2}, {"sample": 1}):
        assert (np.stack(kept(**settings, **change)) != base).any(axis=1).all()  # type: ignore[arg-type]
