"""A scene is prepared once, as requested, and again if its source, its settings or the cache file changed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.array_cache import cached_arrays
from dbbd_cli.data.cache import MARK
from dbbd_cli.data.scenes import cache as scene_cache
from dbbd_cli.data.scenes.cache import (
    PreparedScene,
    Room,
    SceneRef,
    SceneSettings,
    prepared_scene,
    scene_geometry,
    scene_in_cache,
)
from dbbd_cli.data.scenes.geometry import geometry_features
from dbbd_cli.data.scenes.normals import estimate_normals
from dbbd_cli.data.scenes.reader import read_scene, scene_digest
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.data.scenes.trees.builder import build_tree
from unit.data.scenes.trees.example_trees import is_tree, nested

SETTINGS = SceneSettings(normal_neighbors=8, max_depth=2, min_region_points=16)
TREE = ("parent", "level", "center_idx", "indices", "indices_ptr")
COSTLY = ("read_scene", "scene_digest", "generate_room", "build_tree", "estimate_normals")
"""Functions that must not be called for a scene in the cache."""


def kept(folder: Path) -> list[Path]:
    """The files of a cache folder, except its mark."""
    return [path for path in folder.iterdir() if path.name != MARK]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the costly functions, in the order of their calls."""
    called: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return function(*args, **kwargs)

        return call

    for name in COSTLY:
        monkeypatch.setattr(scene_cache, name, counting(name, getattr(scene_cache, name)))
    return called


def points(count: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3)).astype(np.float32)


def save(path: Path, **content: Any) -> SceneRef:
    """Write a scene; returns its reference."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"coords": points(), **content}))
    return SceneRef(path, scene_digest(path))


def assert_equal(one: PreparedScene, two: PreparedScene) -> None:
    for name in ("coord", "normal", "color", "segment"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None)
        assert a is None or (np.array_equal(a, b) and a.dtype == b.dtype)
    for name in TREE:
        assert np.array_equal(getattr(one.tree, name), getattr(two.tree, name))
        assert getattr(one.tree, name).dtype == getattr(two.tree, name).dtype


def test_a_scene_is_read_and_prepared_only_once(tmp_path: Path, calls: list[str]) -> None:
    ref = save(tmp_path / "scene.pkl")
    assert scene_in_cache(ref, SETTINGS, tmp_path / "cache") is None
    first = prepared_scene(ref, SETTINGS, tmp_path / "cache")
    assert sorted(calls) == ["build_tree", "estimate_normals", "read_scene", "scene_digest"]
    calls.clear()
    ref.source.unlink()  # type: ignore[union-attr]
    assert_equal(prepared_scene(ref, SETTINGS, tmp_path / "cache"), first)
    found = scene_in_cache(ref, SETTINGS, tmp_path / "cache")
    assert found is not None
    assert_equal(found, first)
    assert calls == []


def test_a_scene_is_prepared_as_requested(tmp_path: Path) -> None:
    color, label = points(seed=1), np.arange(400) % 7 - 1
    ref = save(tmp_path / "scene.pkl", colors=color, segment20=label)
    scene = prepared_scene(ref, SETTINGS, tmp_path)
    source = read_scene(tmp_path / "scene.pkl")
    assert np.array_equal(scene.coord, source.coord)
    assert np.array_equal(scene.normal, estimate_normals(source.coord, num_neighbors=8))
    assert scene.color is not None
    assert scene.color.dtype == np.uint8
    assert np.abs(scene.color / 255.0 - color).max() <= 0.5 / 255 + 1e-6
    assert scene.segment is not None
    assert scene.segment.tolist() == label.tolist()
    built = build_tree(source.coord, max_depth=2, min_region_points=16)
    assert all(np.array_equal(getattr(scene.tree, name), getattr(built, name)) for name in TREE)
    assert scene.num_points == 400


def test_normals_of_the_file_are_kept(tmp_path: Path, calls: list[str]) -> None:
    normals = np.tile(np.array([0.0, 0.6, 0.8], np.float32), (400, 1))
    scene = prepared_scene(save(tmp_path / "scene.pkl", normals=normals), SETTINGS, tmp_path)
    assert "estimate_normals" not in calls
    assert scene.normal == pytest.approx(normals)
    assert scene.color is None
    assert scene.segment is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_normals_are_estimated_if_all_are_unknown(tmp_path: Path, value: float) -> None:
    ref = save(tmp_path / "scene.pkl", normals=np.full((400, 3), value, np.float32))
    expected = prepared_scene(save(tmp_path / "without.pkl"), SETTINGS, tmp_path)
    assert np.array_equal(prepared_scene(ref, SETTINGS, tmp_path).normal, expected.normal)


def test_only_unknown_normals_are_estimated(tmp_path: Path) -> None:
    normals = -estimate_normals(points(), num_neighbors=8)
    known = np.arange(400) % 9 > 0
    given = np.where(known[:, None], normals, [[np.nan, 0, 0]]).astype(np.float32)
    scene = prepared_scene(save(tmp_path / "scene.pkl", normals=given), SETTINGS, tmp_path)
    assert np.array_equal(scene.normal[known], read_scene(tmp_path / "scene.pkl").normal[known])  # type: ignore[index]
    assert np.linalg.norm(scene.normal, axis=1) == pytest.approx(1, abs=1e-5)


def test_all_labels_are_kept_and_the_reserved_one_is_noted(tmp_path: Path) -> None:
    labels = np.where(np.arange(400) % 5 == 0, 255, np.arange(400) % 3).astype(np.uint8)
    ref = save(tmp_path / "scene.pkl", labels=labels, colors=np.full((400, 3), -1.0))
    for _ in range(2):  # the second time from the cache
        scene = prepared_scene(ref, SETTINGS, tmp_path)
        assert scene.segment is not None
        assert scene.segment.tolist() == labels.tolist()
        assert scene.reserved_label == 255
        assert scene.color is None
        assert scene.unusable == {"color": "its colors range from -1 to -1; expected 0 to 1, 255 or 65,535"}
    plain = prepared_scene(save(tmp_path / "plain.pkl"), SETTINGS, tmp_path)
    assert (plain.reserved_label, plain.unusable) == (None, {})


@pytest.mark.parametrize(("changed", "value"), [("normal_neighbors", 9), ("max_depth", 1), ("min_region_points", 30)])
def test_other_settings_give_another_scene(tmp_path: Path, calls: list[str], changed: str, value: int) -> None:
    ref, other = save(tmp_path / "scene.pkl"), SceneSettings(**{**vars(SETTINGS), changed: value})
    for _ in range(2):
        one, two = (prepared_scene(ref, settings, tmp_path) for settings in (SETTINGS, other))
    assert calls.count("build_tree") == 2
    assert np.array_equal(one.normal, two.normal) == (changed != "normal_neighbors")
    assert (one.tree.num_regions == two.tree.num_regions) == (changed == "normal_neighbors")


def test_other_content_under_the_same_name_is_another_scene(tmp_path: Path) -> None:
    one = prepared_scene(save(tmp_path / "scene.pkl"), SETTINGS, tmp_path / "cache")
    two = prepared_scene(save(tmp_path / "scene.pkl", coords=points(seed=5)), SETTINGS, tmp_path / "cache")
    assert not np.array_equal(one.coord, two.coord)


def test_equal_content_is_one_scene_at_any_path(tmp_path: Path, calls: list[str]) -> None:
    refs = [save(tmp_path / folder / "scene.pkl") for folder in ("here", "there")]
    one, two = (prepared_scene(ref, SETTINGS, tmp_path / "cache") for ref in refs)
    assert_equal(one, two)
    assert calls.count("build_tree") == 1


def test_a_file_that_changed_is_refused_and_not_cached(tmp_path: Path) -> None:
    ref = save(tmp_path / "scene.pkl")
    save(tmp_path / "scene.pkl", coords=points(seed=5))
    with pytest.raises(DataError, match=r"scene\.pkl has changed since the run started") as caught:
        prepared_scene(ref, SETTINGS, tmp_path / "cache")
    assert caught.value.hint
    assert not kept(tmp_path / "cache")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ref = save(tmp_path / "scene.pkl")
    (tmp_path / "scene.pkl").unlink()
    with pytest.raises(DataError, match=r"scene\.pkl cannot be opened"):
        prepared_scene(ref, SETTINGS, tmp_path / "cache")


def test_a_stored_tree_is_used_and_cut_to_max_depth(tmp_path: Path, calls: list[str]) -> None:
    coord = points()
    stored = build_tree(coord, max_depth=3, min_region_points=2)
    assert stored.num_levels == 4
    ref = save(tmp_path / "scene.pkl", hierarchy=nested(stored))
    for max_depth in (1, 2, 3, 9):
        settings = SceneSettings(8, max_depth, min_region_points=16)
        tree = prepared_scene(ref, settings, tmp_path / "cache").tree
        assert is_tree(tree, 400)
        kept = stored.level <= max_depth
        assert np.array_equal(tree.level, stored.level[kept])
        assert np.array_equal(tree.center_idx, stored.center_idx[kept])
        rows = np.flatnonzero(kept)
        assert all(np.array_equal(tree.region(new), stored.region(old)) for new, old in enumerate(rows))
    assert "build_tree" not in calls


def test_an_invalid_stored_tree_is_named_with_its_file_and_region(tmp_path: Path) -> None:
    tree = nested(build_tree(points(), max_depth=2, min_region_points=16))
    tree["children"][1]["indices"][0] = 400
    ref = save(tmp_path / "scene.pkl", hierarchy=tree)
    with pytest.raises(DataError, match=r"scene\.pkl: region root has children that do not contain each"):
        prepared_scene(ref, SETTINGS, tmp_path / "cache")
    assert not kept(tmp_path / "cache")


def test_rooms_are_cached_like_files(tmp_path: Path, calls: list[str]) -> None:
    room = Room(seed=3, index=2, num_points=1000)
    ref = SceneRef(room, room.sha256)
    assert ref.name == "room 2"
    for _ in range(2):
        scene = prepared_scene(ref, SETTINGS, tmp_path)
    assert calls == ["generate_room", "build_tree"]
    source = generate_room(3, 2, 1000)
    assert np.array_equal(scene.coord, source.coord)
    assert np.array_equal(scene.normal, source.normal)
    assert scene.color is not None
    assert scene.segment is not None


def test_rooms_differ_by_every_argument_and_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = [Room(3, 2, 1000), Room(4, 2, 1000), Room(3, 1, 1000), Room(3, 2, 1001), Room(3, 2, None)]
    hashes = {room.sha256 for room in rooms}
    assert len(hashes) == len(rooms)
    assert Room(3, 2, 1000).sha256 in hashes
    monkeypatch.setattr(scene_cache, "GENERATOR_VERSION", 99)
    assert Room(3, 2, 1000).sha256 not in hashes


def test_a_cached_scene_without_all_arrays_is_prepared_again(tmp_path: Path, calls: list[str]) -> None:
    ref = save(tmp_path / "scene.pkl")
    whole = prepared_scene(ref, SETTINGS, tmp_path / "cache")
    (file,) = kept(tmp_path / "cache")
    file.unlink()
    cached_arrays(file, lambda: {"coord": points()}, lambda arrays: True)
    calls.clear()
    assert scene_in_cache(ref, SETTINGS, tmp_path / "cache") is None
    assert_equal(prepared_scene(ref, SETTINGS, tmp_path / "cache"), whole)
    assert calls.count("build_tree") == 1


def test_properties_are_standardized_by_name_and_kept_if_they_are_wanted(tmp_path: Path) -> None:
    intensity = np.random.default_rng(2).integers(0, 60_000, 400).astype(np.uint16)
    intensity[0] = 65_535
    flat = np.full(400, 7.5)
    ref = save(tmp_path / "scene.pkl", scalar_Intensity=intensity, flat=flat, names=["a"] * 400, one=np.ones(3))
    settings = replace(SETTINGS, properties=("flat", "intensity"))
    for _ in range(2):  # the second time from the cache
        found = prepared_scene(ref, settings, tmp_path / "cache").properties
        assert found is not None
        assert found.dtype == np.float32
        assert found[:, 0].tolist() == [0.0] * 400
        expected = (intensity - intensity.mean()) / intensity.std()
        assert np.allclose(found[:, 1], expected, atol=1e-5)
    assert prepared_scene(ref, SETTINGS, tmp_path / "cache").properties is None
    with pytest.raises(DataError, match=r"no property 'curvature'.*; it has: scalar_intensity, flat"):
        prepared_scene(ref, replace(SETTINGS, properties=("curvature",)), tmp_path / "cache")


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -1e9, 1.7e308])
def test_a_constant_property_is_zero(tmp_path: Path, value: float) -> None:
    ref = save(tmp_path / "scene.pkl", reflectance=np.full(400, value))
    settings = replace(SETTINGS, properties=("reflectance",))
    found = prepared_scene(ref, settings, tmp_path / "cache").properties
    assert found is not None
    assert not found.any()


def test_huge_values_of_a_property_do_not_overflow(tmp_path: Path) -> None:
    values = np.where(np.arange(400) % 2 == 0, 1.7e308, -1.7e308)
    ref = save(tmp_path / "scene.pkl", reflectance=values)
    found = prepared_scene(ref, replace(SETTINGS, properties=("reflectance",)), tmp_path / "cache").properties
    assert found is not None
    np.testing.assert_allclose(found[:, 0], np.sign(values), rtol=1e-6)


def test_properties_are_told_apart_by_names_in_any_script_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    moisture, temperature, other = np.random.default_rng(3).random((3, 400))
    ref = save(tmp_path / "scene.pkl", влажность=moisture, температура=temperature, Return=moisture, re_turn=other)
    settings = replace(SETTINGS, properties=("Влажность", "температура", "return"))
    found = prepared_scene(ref, settings, tmp_path / "cache").properties
    assert found is not None
    for column, values in zip(found.T, (moisture, temperature, moisture), strict=True):
        assert np.allclose(column, (values - values.mean()) / values.std(), atol=1e-5)
    for name in ("давление", "?"):
        with pytest.raises(DataError, match="has no property"):
            prepared_scene(ref, replace(SETTINGS, properties=(name,)), tmp_path / "cache")


def test_a_property_that_is_not_finite_is_refused_only_if_it_is_wanted(tmp_path: Path) -> None:
    bad = np.ones(400)
    bad[5] = np.nan
    ref = save(tmp_path / "scene.pkl", intensity=bad)
    assert prepared_scene(ref, SETTINGS, tmp_path / "cache").num_points == 400
    with pytest.raises(DataError, match="its property 'intensity' is not finite at point 5"):
        prepared_scene(ref, replace(SETTINGS, properties=("intensity",)), tmp_path / "cache")


def test_geometry_is_computed_once_if_it_is_wanted(tmp_path: Path) -> None:
    ref = save(tmp_path / "scene.pkl")
    assert prepared_scene(ref, SETTINGS, tmp_path / "cache").geometry is None
    scene = prepared_scene(ref, replace(SETTINGS, geometry=True), tmp_path / "cache")
    assert scene.geometry is not None
    assert np.array_equal(scene.geometry, geometry_features(scene.coord))


def test_geometry_can_be_had_without_preparing_the_scene_again(tmp_path: Path, calls: list[str]) -> None:
    ref = save(tmp_path / "scene.pkl")
    expected = geometry_features(prepared_scene(ref, SETTINGS, tmp_path / "cache").coord)
    calls.clear()
    for _ in range(2):
        np.testing.assert_array_equal(scene_geometry(ref, SETTINGS, tmp_path / "cache"), expected)
    assert calls == []
    assert len(kept(tmp_path / "cache")) == 2
    # Not the whole scene once more, and none if the scene has it.
    wanted = replace(SETTINGS, geometry=True)
    np.testing.assert_array_equal(scene_geometry(ref, wanted, tmp_path / "cache"), expected)
    assert len(kept(tmp_path / "cache")) == 3
    other = scene_geometry(ref, replace(SETTINGS, grid_size=0.3), tmp_path / "cache")
    assert len(other) < len(expected)


def test_a_scan_is_thinned_and_a_mesh_sampled_as_the_settings_say(tmp_path: Path) -> None:
    coord = np.random.default_rng(0).random((2000, 3))
    np.savez(tmp_path / "a.npz", coord=coord, segment=np.arange(2000))
    settings = SceneSettings(normal_neighbors=8, max_depth=2, min_region_points=8)
    ref = SceneRef(tmp_path / "a.npz", scene_digest(tmp_path / "a.npz"))
    assert prepared_scene(ref, settings, tmp_path / "cache").num_points == 2000
    thin = prepared_scene(ref, replace(settings, grid_size=0.25), tmp_path / "cache")
    assert thin.num_points == 64
    assert thin.segment.max() > 64  # labels of the points that stay
    pytest.importorskip("trimesh")
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n4 0 0\n0 3 1\n3 0 1 2\n")
    ref = SceneRef(tmp_path / "a.off", scene_digest(tmp_path / "a.off"))
    assert prepared_scene(ref, replace(settings, mesh_points=321), tmp_path / "cache").num_points == 321
