"""Every format gives the same scene, and files that are not scenes are refused by name."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes import reader
from dbbd_cli.data.scenes.formats.ply import read_ply
from dbbd_cli.data.scenes.reader import read_scene, scene_digest
from dbbd_cli.data.scenes.scene import SceneArrays, make_scene
from dbbd_cli.data.scenes.sources import list_scenes
from unit.data.scenes.formats import written
from unit.data.scenes.scene_files import COLOR, COORD, KINDS, NORMAL, RNG, SEGMENT, TREE, N, refused, write, write_ply


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_scene(tmp_path, kind):
    scene = read_scene(write(tmp_path / "room", kind))
    assert scene.num_points == N
    assert scene.coord.dtype == scene.normal.dtype == scene.color.dtype == np.float32
    assert scene.segment.dtype == np.int64
    np.testing.assert_allclose(scene.coord + scene.shift, COORD, atol=1e-6)
    np.testing.assert_allclose(scene.normal, NORMAL, atol=1e-6)
    np.testing.assert_allclose(scene.color, COLOR / 255, atol=1e-6)
    np.testing.assert_array_equal(scene.segment, SEGMENT)
    assert (scene.hierarchy is not None) == (kind == "pkl")
    if kind == "pkl":
        np.testing.assert_array_equal(scene.hierarchy["indices"], TREE["indices"])


@pytest.mark.parametrize("kind", ["pkl", "npz", "folder"])
def test_only_coordinates_are_required(tmp_path, kind):
    scene = read_scene(write(tmp_path / "room", kind, normal=None, color=None, segment=None))
    assert scene.normal is scene.color is scene.segment is None


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_far_from_the_origin_keep_their_millimeters(tmp_path, kind):
    far = COORD + np.array([4_500_000.25, -812_345.5, 1e4])
    scene = read_scene(write(tmp_path / "room", kind, coord=far))
    assert np.abs(scene.coord).max() < 20
    np.testing.assert_allclose(scene.coord - scene.coord[0], COORD - COORD[0], atol=1e-4)
    np.testing.assert_allclose(scene.coord + scene.shift, far, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_coordinates_are_refused(tmp_path, kind, value):
    bad = COORD.copy()
    bad[7, 1] = value
    assert "not finite at point 7" in refused(write(tmp_path / "room", kind, coord=bad))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_normals_are_unknown(tmp_path, kind, value):
    bad = NORMAL.copy()
    bad[7, 1] = value
    scene = read_scene(write(tmp_path / "room", kind, normal=bad))
    assert scene.unusable == {}
    assert np.flatnonzero(~scene.normal.any(axis=1)).tolist() == [7]
    np.testing.assert_allclose(np.delete(scene.normal, 7, axis=0), np.delete(NORMAL, 7, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_scene_without_known_normals_has_none(tmp_path, kind, value):
    assert read_scene(write(tmp_path / "room", kind, normal=np.full((N, 3), value))).normal is None


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_optional_parts_does_not_prevent_reading(tmp_path, kind):
    color, label = COLOR / 255, SEGMENT.astype("f8")
    color[3, 0], label[4] = np.nan, 0.5
    kinds = ["double"] * 10
    path = tmp_path / "room.ply"
    if kind == "ply":
        write_ply(path, {"coord": COORD, "normal": NORMAL, "color": color, "segment": label}, kinds)
    else:
        path = write(tmp_path / "room", kind, color=color, segment=label)
    scene = read_scene(path)
    np.testing.assert_allclose(scene.coord + scene.shift, COORD, atol=1e-6)
    assert scene.color is scene.segment is None
    assert scene.unusable == {
        "color": "its colors are not finite at point 3 (counted from 0)",
        "segment": "its labels are not integers",
    }


@pytest.mark.parametrize("kind", ["pkl", "npz", "folder"])
def test_arrays_of_the_wrong_shape_or_type_are_listed_as_unusable(tmp_path, kind):
    if kind == "pkl":
        path = tmp_path / "room.pkl"
        content = {"coords": COORD, "normals": NORMAL[:-1], "colors": [["a"] * 3] * N, "labels": np.arange(13)}
        path.write_bytes(pickle.dumps(content))
    else:
        text = np.array([["a"] * 3] * N)
        path = write(tmp_path / "room", kind, normal=NORMAL[:-1], color=text, segment=np.arange(13))
    scene = read_scene(path)
    assert scene.normal is scene.color is scene.segment is None
    assert scene.unusable["normal"] == "has 12 points and 11 normals"
    assert scene.unusable["segment"] == "has 12 points and 13 labels"
    color = {
        "npz": "its array color is not an array of numbers",
        "folder": "its file color.npy is not an array of numbers",
    }
    assert color.get(kind, "its colors contains something other than numbers") in scene.unusable["color"]


@pytest.mark.parametrize("keep", [False, True])
def test_the_label_that_means_ignore_is_removed_unless_it_is_to_be_kept(tmp_path, keep):
    labels = np.where(np.arange(N) % 4 == 0, 255, np.arange(N) % 3).astype(np.uint8)
    scene = read_scene(write(tmp_path / "room", "npz", segment=labels), keep_reserved_label=keep)
    assert scene.reserved_label == 255
    assert scene.segment.tolist() == [
        255 if keep and label == 255 else -1 if label == 255 else label for label in labels
    ]


def test_arrays_without_rows_count_as_missing(tmp_path):
    """Open3D gives an empty array for the normals of a cloud without normals."""
    scene = read_scene(write(tmp_path / "room", "npz", normal=np.empty((0, 3)), color=np.empty((0, 3))))
    assert scene.normal is scene.color is None
    assert scene.unusable == {}


@pytest.mark.parametrize("kind", ["pkl", "npz", "folder"])
def test_a_single_number_is_not_a_part_of_the_scene(tmp_path, kind):
    """It may be a scale factor, or the class of an object as a whole."""
    if kind == "pkl":
        path = tmp_path / "room.pkl"
        path.write_bytes(pickle.dumps({"coord": COORD, "norm": 2.5, "category": "chair", "label": np.int64(3)}))
    else:
        path = write(tmp_path / "room", kind, normal=np.array(2.5), segment=np.array(3))
    scene = read_scene(path)
    assert scene.normal is scene.segment is None
    assert scene.unusable == {}


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_scenes_are_refused(tmp_path, kind):
    few = {"coord": COORD[:3], "normal": NORMAL[:3], "color": COLOR[:3], "segment": SEGMENT[:3]}
    assert "has only 3 points" in refused(write(tmp_path / "few", kind, **few))
    same = np.full((N, 3), 1e7 / 3)
    assert "all of its points are in the same place" in refused(write(tmp_path / "same", kind, coord=same))
    wide = COORD * [1e300, 1, 1]
    assert "the limit is 1e+08" in refused(write(tmp_path / "wide", kind, coord=wide))
    if kind != "ply":
        assert "must be 3 numbers per point" in refused(write(tmp_path / "flat", kind, coord=COORD[:, :2]))


def test_real_scans_of_both_campaigns_are_read(shared: Path):
    paths = sorted((shared / "data" / "scans").glob("*.ply"))
    scenes = [read_scene(path) for path in paths]
    assert len(scenes) >= 24
    assert all(len(scene.coord) > 10_000 and np.isfinite(scene.coord).all() for scene in scenes)
    assert all(np.abs(scene.coord).max() < 60 for scene in scenes)
    assert all(scene.color.min() >= 0 and scene.color.max() <= 1 for scene in scenes)
    assert {scene.normal is not None for scene in scenes} == {True, False}
    assert set(np.unique(np.concatenate([scene.segment for scene in scenes]))) >= {0, 1, 2, 3, 6, 8, 9, 10, 11, 12}


def test_other_files_are_refused(tmp_path):
    assert "cannot be opened: no such file" in refused(tmp_path / "none.ply")
    (tmp_path / "a.usdz").write_text("v 1 2 3")
    assert "unknown format; scenes are .pkl, .ply, .npz, " in refused(tmp_path / "a.usdz")
    torch.save({"coords": torch.zeros(4, 3)}, tmp_path / "a.pkl")
    assert "written by torch.save" in refused(tmp_path / "a.pkl")
    (tmp_path / "scene").mkdir()
    assert "folder without coord.npy" in refused(tmp_path / "scene")
    for suffix in ("pkl", "ply", "npz"):
        (tmp_path / f"empty.{suffix}").touch()
        assert "is an empty file" in refused(tmp_path / f"empty.{suffix}")
        (tmp_path / f"noise.{suffix}").write_bytes(RNG.bytes(1000))
        refused(tmp_path / f"noise.{suffix}")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("name", ["a.ply", "a.pkl", "a.npz"])
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "is not a regular file" in refused(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
@pytest.mark.parametrize("name", ["coord", "normal", "color", "segment"])
def test_a_pipe_in_a_folder_is_refused_without_waiting_for_it(tmp_path, name):
    for part in {"coord", "normal", "color", "segment"} - {name}:
        np.save(tmp_path / f"{part}.npy", np.zeros((4, 3)))
    os.mkfifo(tmp_path / f"{name}.npy")
    for use in (scene_digest, read_scene):
        with pytest.raises(DataError, match=rf"its file {name}\.npy is not a regular file"):
            use(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_a_broken_link_in_a_folder_is_not_a_missing_part(tmp_path):
    """A git-annex repository consists of them until its files are fetched."""
    np.save(tmp_path / "coord.npy", COORD)
    (tmp_path / "normal.npy").symlink_to("gone.npy")
    for use in (scene_digest, read_scene):
        with pytest.raises(DataError, match=r"its file normal\.npy is a link to a missing file"):
            use(tmp_path)


def test_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a", "pkl")
    monkeypatch.setattr(reader, "MAX_BYTES", path.stat().st_size - 1)
    assert "the limit is" in refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_scenes_raise_only_data_errors(tmp_path, kind):
    path = write(tmp_path / "room", kind)
    target = path / "coord.npy" if kind == "folder" else path
    good = target.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(80):
        data = bytearray(good)
        for place in rng.integers(len(data), size=int(rng.integers(1, 5))):
            data[place] = rng.integers(256)
        target.write_bytes(data[: int(rng.integers(len(data) // 2, len(data) + 1))])
        try:
            scene = read_scene(path)
        except DataError:
            continue
        assert np.isfinite(scene.coord).all()


def test_the_digest_depends_on_the_content_alone(tmp_path):
    first, second = write(tmp_path / "a", "npz"), write(tmp_path / "b", "npz", segment=SEGMENT + 1)
    copy = tmp_path / "c.npz"
    copy.write_bytes(first.read_bytes())
    assert scene_digest(first) == scene_digest(copy) != scene_digest(second)
    folder = write(tmp_path / "scene", "folder")
    before = scene_digest(folder)
    (folder / "notes.txt").write_text("not part of the scene")
    assert scene_digest(folder) == before
    np.save(folder / "segment20.npy", SEGMENT + 1)
    assert scene_digest(folder) != before
    with pytest.raises(DataError, match="cannot be opened"):
        scene_digest(tmp_path / "none.ply")


def test_a_huge_sparse_file_is_not_hashed(tmp_path: Path) -> None:
    with (tmp_path / "a.ply").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match=r"a\.ply: has 1,000,000,000,000 bytes; the limit is 17,179,869,184"):
        scene_digest(tmp_path / "a.ply")


def test_a_new_format_is_one_function_and_one_entry(tmp_path, monkeypatch):
    def read_table(path):
        table = np.loadtxt(path, ndmin=2)
        return SceneArrays(coord=table[:, :3], segment=table[:, 3])

    monkeypatch.setitem(reader.READERS, ".tab", read_table)
    np.savetxt(tmp_path / "room.TAB", np.column_stack([COORD, SEGMENT]))
    scene = read_scene(tmp_path / "room.TAB")
    np.testing.assert_allclose(scene.coord + scene.shift, COORD, atol=1e-6)
    assert scene.segment.tolist() == SEGMENT.tolist()
    assert [candidate.key for candidate in list_scenes(tmp_path).candidates] == ["room.TAB"]
    (tmp_path / "odd.tab").write_text("1 2 three 4\n")
    assert "could not convert" in refused(tmp_path / "odd.tab")


def test_points_without_coordinates_are_refused(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text("ply\nformat ascii 1.0\nelement vertex 4\nproperty float u\nend_header\n" + "1\n" * 4)
    assert "its points have no x, y and z, only u" in refused(path)


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed", "las", "laz", "e57", "csv", "xyz"])
def test_real_scans_are_the_same_in_every_format(shared: Path, tmp_path, kind):
    if kind in ("las", "laz", "e57"):
        pytest.importorskip({"e57": "pye57"}.get(kind, "lazrs"))
    for name in ("0.ply", "100.ply"):
        whole = read_ply(shared / "data" / "scans" / name)
        rows = np.arange(0, len(whole.coord), 7 if kind == "binary_compressed" else 1)
        properties = {"intensity": whole.properties["intensity"][rows]} if "intensity" in whole.properties else {}
        normal = None if whole.normal is None or kind == "e57" else whole.normal[rows]
        segment = None if kind == "e57" else whole.segment[rows, 0]
        if kind in ("las", "laz") and properties:  # 16 bits
            properties["intensity"] = np.rint(properties["intensity"] * 65535).astype(np.uint16)
        arrays = SceneArrays(whole.coord[rows].astype(np.float64), normal, whole.color[rows], segment, None, properties)
        expected, scene = make_scene(arrays), None
        if kind in ("ascii", "binary", "binary_compressed"):
            scene = read_scene(written.pcd(tmp_path / f"{kind}.pcd", arrays, kind))
        elif kind in ("las", "laz"):
            scene = read_scene(written.las(tmp_path / f"a.{kind}", arrays))
        elif kind == "e57":
            scene = read_scene(written.e57(tmp_path / "a.e57", arrays, 3))
        else:
            head = "x,y,z,r,g,b" + ",nx,ny,nz" * (normal is not None) + ",intensity" * bool(properties) + ",label\n"
            comma = kind == "csv"
            scene = read_scene(written.text(tmp_path / f"a.{kind}", arrays, ", "[not comma], head if comma else ""))
        np.testing.assert_allclose(scene.coord + scene.shift, expected.coord + expected.shift, atol=2e-4)
        np.testing.assert_allclose(scene.color, expected.color, atol=1e-6)
        if normal is not None:
            np.testing.assert_allclose(scene.normal, expected.normal, atol=1e-5)
        if segment is not None:
            np.testing.assert_array_equal(scene.segment, expected.segment)
        if properties and kind != "xyz":
            found = scene.properties["intensity"]
            np.testing.assert_allclose(found, expected.properties["intensity"], rtol=1e-6)


def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lazrs", None)
    (tmp_path / "a.laz").write_bytes(b"LASF" + bytes(300))
    missing = r'a\.laz: needs the package l.*, which is not installed: pip install "dbbd-cli\[las\]"$'
    with pytest.raises(DataError, match=missing):
        read_scene(tmp_path / "a.laz")
