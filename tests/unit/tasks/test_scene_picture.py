"""The picture of a scene describes selected points: their regions, labels and feature colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dbbd_cli.data.scenes.cache import Room, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.tasks import scene_picture as module
from dbbd_cli.tasks.scene_batches import PointBatch, SceneDataset
from dbbd_cli.tasks.scene_features import principal_colors
from dbbd_cli.tasks.scene_picture import scene_picture

LABELS = [*range(9), 40]
"""Those of the whole dataset, of which a scene has some."""


@pytest.fixture
def scene(tmp_path: Path) -> tuple[PointBatch, SceneDataset]:
    room = Room(3, 0, 1500)
    dataset = SceneDataset(
        [SceneRef(room, room.sha256)],
        SceneSettings(normal_neighbors=8, max_depth=3, min_region_points=16),
        tmp_path,
        point_samples=None,
        with_color=False,
        with_segment=True,
        seed=0,
    )
    return dataset.__getitems__([(0, 0)]), dataset


def features(count: int = 1500, dim: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = np.geomspace(10, 0.1, dim)
    mixed = rng.normal(size=(count, dim)) * spread @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (mixed + 5).astype(np.float32)


def tree_of(dataset: SceneDataset):  # type: ignore[no-untyped-def]
    return prepared_scene(dataset.refs[0], dataset.settings, dataset.cache_dir).tree


def assert_same_colors(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare rounded colors: the last digits of a component can change one by 1."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_every_point_is_described(scene: tuple[PointBatch, SceneDataset]) -> None:
    batch, dataset = scene
    picture = scene_picture(batch, tree_of(dataset), features(), LABELS)
    assert {name: (array.shape, str(array.dtype)) for name, array in picture.items()} == {
        "coord": ((1500, 3), "float32"),
        "color": ((1500, 3), "uint8"),
        "region": ((4, 1500), "int32"),
        "segment": ((1500,), "int32"),
    }
    assert np.array_equal(picture["coord"], batch.coord.numpy())
    assert_same_colors(picture["color"], principal_colors(features()))
    assert batch.segment is not None
    segment = batch.segment.numpy()
    assert -1 in segment
    assert [LABELS[place] if place >= 0 else -1 for place in picture["segment"].tolist()] == segment.tolist()


def test_regions_are_those_of_the_tree_and_leaves_continue_below(scene: tuple[PointBatch, SceneDataset]) -> None:
    batch, dataset = scene
    tree = tree_of(dataset)
    picture = scene_picture(batch, tree, features(), LABELS)
    assert tree.num_levels == 4
    for level in range(4):
        owner = np.full(1500, -1)
        for row in range(tree.num_regions):  # parents come first: the deepest region up to this level wins
            if tree.level[row] <= level:
                owner[tree.region(row)] = row
        found = picture["region"][level]
        assert len(set(zip(owner.tolist(), found.tolist(), strict=True))) == len(set(owner)) == len(set(found))
        assert sorted(set(found.tolist())) == list(range(len(set(owner))))
    leaves = int(tree.is_leaf.sum())
    assert len(np.unique(picture["region"][3])) == leaves
    assert bool((tree.level[tree.is_leaf] < 3).any())  # so that the test covers it


def test_large_scenes_are_sampled_reproducibly(
    scene: tuple[PointBatch, SceneDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, dataset = scene
    whole = scene_picture(batch, tree_of(dataset), features(), LABELS)
    monkeypatch.setattr(module, "MAX_POINTS", 200)
    np.random.seed(3)
    picture = scene_picture(batch, tree_of(dataset), features(), LABELS)
    again = scene_picture(batch, tree_of(dataset), features(), LABELS)
    assert all(np.array_equal(picture[name], again[name]) for name in picture)
    places = {row.tobytes(): number for number, row in enumerate(whole["coord"])}
    chosen = [places[row.tobytes()] for row in picture["coord"]]
    assert len(chosen) == 200
    assert chosen == sorted(set(chosen))
    assert max(chosen) > 1000
    assert np.array_equal(picture["region"][0], whole["region"][0][chosen])
    assert_same_colors(picture["color"], principal_colors(features()[chosen]))


@pytest.mark.parametrize("known", [False, True])
def test_labels_are_included_only_if_a_point_has_one(scene: tuple[PointBatch, SceneDataset], known: bool) -> None:
    batch, dataset = scene
    segment = torch.full((1500,), -1, dtype=torch.int32)
    if known:
        segment[3] = 9
    picture = scene_picture(batch._replace(segment=segment), tree_of(dataset), features(), [2, 9, 30])
    assert ("segment" in picture) == known
    if known:
        assert picture["segment"].tolist() == [-1] * 3 + [1] + [-1] * 1496


# Colors


def test_colors_are_the_first_principal_components() -> None:
    values = features()
    color = principal_colors(values).astype(float)
    centered = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    for channel in range(3):
        component = centered @ axes[channel]
        low, high = np.percentile(component, [1, 99])
        inside = (component > low) & (component < high)
        assert abs(np.corrcoef(component[inside], color[inside, channel])[0, 1]) > 0.9999
        assert set(color[~inside, channel]) <= {0.0, 255.0}
        assert color[:, channel].min() == 0
        assert color[:, channel].max() == 255


def test_the_largest_component_of_an_axis_is_positive() -> None:
    spread = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 9.0, 3.0]
    for turned in (spread, spread * [1.0, -1.0, 1.0]):
        color = principal_colors(turned).astype(float)
        for channel, axis in enumerate((1, 2, 0)):
            assert np.corrcoef(turned[:, axis], color[:, channel])[0, 1] > 0.95


def test_colors_depend_on_features_up_to_a_shift() -> None:
    values = np.concatenate([features(100), features(100)])
    color = principal_colors(values)
    assert_same_colors(color[:100], color[100:])
    assert_same_colors(principal_colors(features(100)[::-1].copy()), principal_colors(features(100))[::-1])
    assert_same_colors(principal_colors(features(100).astype(np.float64) + 3.0), principal_colors(features(100)))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_channels_leave_colors_empty(dim: int) -> None:
    color = principal_colors(features(50, dim))
    assert color.shape == (50, 3)
    assert all((np.ptp(color[:, channel]) > 0) == (channel < dim) for channel in range(3))


def test_equal_features_have_one_color() -> None:
    color = principal_colors(np.full((20, 5), 2.5, np.float32))
    assert (color == color[0]).all()
