import os
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes import reader as scene_file
from dbbd_cli.data.scenes.reader import read_scene, scene_digest
from dbbd_cli.data.scenes.scene import make_scene

RNG = np.random.default_rng(0)
N = 12
COORD = RNG.normal(size=(N, 3)) * [4, 3, 1]
NORMAL = RNG.normal(size=(N, 3))
NORMAL /= np.linalg.norm(NORMAL, axis=1, keepdims=True)
COLOR = RNG.integers(0, 256, (N, 3)).astype(np.uint8)
SEGMENT = RNG.integers(-1, 20, N)
TREE = {"indices": np.arange(N), "center_idx": 3, "level": 0, "children": []}


def write_ply(path, arrays, kinds=None):
    columns = [arrays["coord"], arrays["normal"], arrays["color"], arrays["segment"][:, None]]
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "label"]
    kinds = kinds or ["double"] * 6 + ["uchar"] * 3 + ["double"]
    types = {"double": "<f8", "uchar": "u1", "float": "<f4", "int": "<i4"}
    table = np.empty(len(columns[0]), [(n, types[k]) for n, k in zip(names, kinds, strict=True)])
    for name, column in zip(names, np.concatenate([c.astype("f8") for c in columns], axis=1).T, strict=True):
        table[name] = column
    properties = "".join(f"property {k} {n}\n" for n, k in zip(names, kinds, strict=True))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(table)}\n{properties}end_header\n"
    path.write_bytes(head.encode() + table.tobytes())


def write(path, kind, **changes):
    """Writes the scene of this file in one of the kinds; `changes` replace arrays, None leaves one out."""
    arrays = {"coord": COORD, "normal": NORMAL, "color": COLOR, "segment": SEGMENT, **changes}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if kind == "folder":
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{'segment20' if name == 'segment' else name}.npy", array)
        return path
    path = path.with_suffix(f".{kind}")
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "ply":
        write_ply(path, arrays)
    else:
        seed_names = {"coord": "coords", "normal": "normals", "color": "colors", "segment": "labels"}
        content = {seed_names[name]: torch.tensor(array) for name, array in arrays.items()}
        more = {"num_points": len(arrays["coord"]), "total_regions": 1, "max_depth_reached": 0}
        path.write_bytes(pickle.dumps({**content, "hierarchy": TREE, **more}))
    return path


def refused(path):
    """The message of the error that reading gives, after checking time, memory and that the file is named."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(DataError) as caught:
            read_scene(path)
        assert time.process_time() - start < 2
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


KINDS = ("pkl", "ply", "npz", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_scene(tmp_path, kind):
    scene = read_scene(write(tmp_path / "room", kind))
    assert scene.name == "room"
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
def test_all_but_the_coordinates_may_be_missing(tmp_path, kind):
    scene = read_scene(write(tmp_path / "room", kind, normal=None, color=None, segment=None))
    assert scene.normal is scene.color is scene.segment is None


@pytest.mark.parametrize("kind", KINDS)
def test_coordinates_far_away_keep_their_millimeters(tmp_path, kind):
    far = COORD + np.array([4_500_000.25, -812_345.5, 1e4])
    scene = read_scene(write(tmp_path / "room", kind, coord=far))
    assert np.abs(scene.coord).max() < 20
    np.testing.assert_allclose(scene.coord - scene.coord[0], COORD - COORD[0], atol=1e-4)
    np.testing.assert_allclose(scene.coord + scene.shift, far, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused(tmp_path, kind, value):
    bad = COORD.copy()
    bad[7, 1] = value
    assert "not finite at point 7" in refused(write(tmp_path / "room", kind, coord=bad))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_normals_that_are_not_finite_are_unknown(tmp_path, kind, value):
    bad = NORMAL.copy()
    bad[7, 1] = value
    scene = read_scene(write(tmp_path / "room", kind, normal=bad))
    assert scene.unusable == {}
    assert np.flatnonzero(~scene.normal.any(axis=1)).tolist() == [7]
    np.testing.assert_allclose(np.delete(scene.normal, 7, axis=0), np.delete(NORMAL, 7, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_scene_all_of_whose_normals_are_unknown_has_none(tmp_path, kind, value):
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
        "segment": "its labels are not whole numbers",
    }


@pytest.mark.parametrize("kind", ["pkl", "npz", "folder"])
def test_arrays_of_another_shape_or_type_are_listed_as_unusable(tmp_path, kind):
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
    assert color.get(kind, "its colors holds something else than numbers") in scene.unusable["color"]


def test_arrays_without_rows_count_as_missing(tmp_path):
    """Open3D gives a table without rows for the normals that a cloud does not have."""
    scene = read_scene(write(tmp_path / "room", "npz", normal=np.empty((0, 3)), color=np.empty((0, 3))))
    assert scene.normal is scene.color is None
    assert scene.unusable == {}


@pytest.mark.parametrize("kind", ["pkl", "npz", "folder"])
def test_a_single_number_is_no_part_of_the_scene(tmp_path, kind):
    """A factor that coordinates were divided by, and the class of an object as a whole."""
    if kind == "pkl":
        path = tmp_path / "room.pkl"
        path.write_bytes(pickle.dumps({"coord": COORD, "norm": 2.5, "category": "chair", "label": np.int64(3)}))
    else:
        path = write(tmp_path / "room", kind, normal=np.array(2.5), segment=np.array(3))
    scene = read_scene(path)
    assert scene.normal is scene.segment is None
    assert scene.unusable == {}


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_that_are_none_are_refused(tmp_path, kind):
    few = {"coord": COORD[:3], "normal": NORMAL[:3], "color": COLOR[:3], "segment": SEGMENT[:3]}
    assert "has only 3 points" in refused(write(tmp_path / "few", kind, **few))
    same = np.full((N, 3), 1e7 / 3)
    assert "all of its points lie in the same place" in refused(write(tmp_path / "same", kind, coord=same))
    wide = COORD * [1e300, 1, 1]
    assert "at most 1e+08 make sense" in refused(write(tmp_path / "wide", kind, coord=wide))
    if kind != "ply":
        assert "no table of 3 numbers" in refused(write(tmp_path / "flat", kind, coord=COORD[:, :2]))


def test_real_scans_of_both_campaigns_are_read(shared: Path):
    paths = sorted((shared / "data" / "scans").glob("*.ply"))
    scenes = [read_scene(path) for path in paths]
    assert len(scenes) >= 24
    assert all(len(scene.coord) > 10_000 and np.isfinite(scene.coord).all() for scene in scenes)
    assert all(np.abs(scene.coord).max() < 60 for scene in scenes)
    assert all(scene.color.min() >= 0 and scene.color.max() <= 1 for scene in scenes)
    assert {scene.normal is not None for scene in scenes} == {True, False}
    assert set(np.unique(np.concatenate([scene.segment for scene in scenes]))) >= {0, 1, 2, 3, 6, 8, 9, 10, 11, 12}


def test_names_of_columns_vary(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(
        f"property {p}\n"
        for p in ("float Z", "float Y", "float X", "float scalar_Label", "float r", "float g", "float b")
    )
    rows = "".join(f"{i} 0 {10 * i} {i - 1} 0.5 {i / 4} 1\n" for i in range(4))
    path = tmp_path / "a.ply"
    path.write_text(text + "end_header\n" + rows)
    scene = read_scene(path)
    assert (scene.coord + scene.shift)[:, 0].tolist() == [0, 10, 20, 30]
    assert scene.segment.tolist() == [-1, 0, 1, 2]
    assert scene.color[:, 1].tolist() == [0, 0.25, 0.5, 0.75]


def test_a_pickle_may_hold_lists_and_arrays(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD.tolist(), "normal": [*NORMAL], "segment": [int(s) for s in SEGMENT]}))
    scene = read_scene(path)
    np.testing.assert_allclose(scene.coord + scene.shift, COORD, atol=1e-6)
    np.testing.assert_array_equal(scene.segment, SEGMENT)


@pytest.mark.parametrize("rows", [list, tuple, np.array])
def test_colors_in_lists_of_a_pickle_may_have_an_opacity(tmp_path, rows):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD, "rgba": [rows([*color, 9]) for color in COLOR.tolist()]}))
    np.testing.assert_allclose(read_scene(path).color, COLOR / 255, atol=1e-6)


def test_of_two_equal_names_in_a_pickle_the_first_counts(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coord": COORD, "Label": SEGMENT, "label": SEGMENT + 1}))
    np.testing.assert_array_equal(read_scene(path).segment, SEGMENT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "does not hold a dict"),
        ({}, "has no coordinates"),
        ({"coords": "x"}, "has no coordinates"),
        ({"coords": {"x": 1}}, "is no array"),
        ({"coords": [[1, 2, 3], [4, 5]]}, "rows of 3 numbers"),
        ({"coords": [np.array(1.0)] * 4}, "rows of 3 numbers"),
        ({"coords": [[1, 2, "x"]] * 4}, "something else than numbers"),
        ({"coords": [[1, 2, 10**400], [0.5, 1, 2]] * 2}, "numbers"),
        ({"coords": [["1", "2", "3"]] * 4}, "something else than numbers"),
        ({"coords": [np.zeros(10**4)] * 4}, "rows of 3 numbers"),
        ({"coords": COORD, "hierarchy": [1]}, "hierarchy is no dict"),
        ({"coords": COORD, "num_points": 13}, "says that it has 13 points, and has 12"),
        ({"coords": np.array([["a"] * 3] * 4)}, "no table of 3 numbers"),
    ],
)
def test_pickles_of_other_content_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    assert reason in refused(path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def test_a_payload_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"coords": COORD, "hierarchy": {"children": [Payload()]}}))
    message = refused(path)
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "nothing in it was run" in message
    assert not (tmp_path / "payload-was-run").exists()


def test_other_files_are_refused(tmp_path):
    assert "cannot be opened: no such file" in refused(tmp_path / "none.ply")
    (tmp_path / "a.obj").write_text("v 1 2 3")
    assert "unknown kind; scenes are .pkl, .ply, .npz or folders" in refused(tmp_path / "a.obj")
    torch.save({"coords": torch.zeros(4, 3)}, tmp_path / "a.pkl")
    assert "written by torch.save" in refused(tmp_path / "a.pkl")
    (tmp_path / "scene").mkdir()
    assert "folder without coord.npy" in refused(tmp_path / "scene")
    for suffix in ("pkl", "ply", "npz"):
        (tmp_path / f"empty.{suffix}").touch()
        assert "is an empty file" in refused(tmp_path / f"empty.{suffix}")
        (tmp_path / f"noise.{suffix}").write_bytes(RNG.bytes(1000))
        refused(tmp_path / f"noise.{suffix}")


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize("name", ["a.ply", "a.pkl", "a.npz"])
def test_a_pipe_does_not_make_it_wait(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "is not a regular file" in refused(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize("name", ["coord", "normal", "color", "segment"])
def test_a_pipe_in_a_folder_does_not_make_it_wait(tmp_path, name):
    for part in {"coord", "normal", "color", "segment"} - {name}:
        np.save(tmp_path / f"{part}.npy", np.zeros((4, 3)))
    os.mkfifo(tmp_path / f"{name}.npy")
    for use in (scene_digest, read_scene):
        with pytest.raises(DataError, match=rf"its file {name}\.npy is not a regular file"):
            use(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_broken_link_in_a_folder_is_no_missing_part(tmp_path):
    """A repository of git-annex is made of them until its files are fetched."""
    np.save(tmp_path / "coord.npy", COORD)
    (tmp_path / "normal.npy").symlink_to("gone.npy")
    for use in (scene_digest, read_scene):
        with pytest.raises(DataError, match=r"its file normal\.npy is a link to a missing file"):
            use(tmp_path)


def test_of_a_pickle_of_holes_little_is_read(tmp_path):
    with (tmp_path / "a.pkl").open("wb") as file:
        file.write(b"\x80\x02}")
        file.truncate(10**9)
    tracemalloc.start()
    try:
        assert "is not a valid pickle" in refused(tmp_path / "a.pkl")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_large_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a", "pkl")
    monkeypatch.setattr(scene_file, "MAX_BYTES", path.stat().st_size - 1)
    assert "files of at most" in refused(path)


@pytest.mark.parametrize("suffix", [".npz", ""])
def test_an_array_of_objects_is_refused_and_named(tmp_path, suffix):
    (tmp_path / "scene").mkdir()
    np.save(tmp_path / "scene" / "coord.npy", np.array([Payload()] * 3, dtype=object), allow_pickle=True)
    np.savez(tmp_path / "scene.npz", coord=np.array([Payload()] * 3, dtype=object))
    message = refused(tmp_path / f"scene{suffix}")
    assert f"its {'array coord' if suffix else 'file coord.npy'} is not an array of numbers" in message


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_scenes_are_data_errors_and_nothing_else(tmp_path, kind):
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


def test_the_digest_is_that_of_the_content(tmp_path):
    first, second = write(tmp_path / "a", "npz"), write(tmp_path / "b", "npz", segment=SEGMENT + 1)
    copy = tmp_path / "c.npz"
    copy.write_bytes(first.read_bytes())
    assert scene_digest(first) == scene_digest(copy) != scene_digest(second)
    folder = write(tmp_path / "scene", "folder")
    before = scene_digest(folder)
    (folder / "notes.txt").write_text("nothing of the scene")
    assert scene_digest(folder) == before
    np.save(folder / "segment20.npy", SEGMENT + 1)
    assert scene_digest(folder) != before
    with pytest.raises(DataError, match="cannot be opened"):
        scene_digest(tmp_path / "none.ply")


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        (np.full((4, 3), 51, np.uint8), 0.2),
        (np.full((4, 3), 1, np.uint8), 1 / 255),
        (np.full((4, 3), 13107, np.uint16), 0.2),
        (np.full((4, 3), 51.0), 0.2),
        (np.full((4, 3), 0.2, np.float32), 0.2),
        (np.full((4, 3), 51, np.int64), 0.2),
        (np.full((4, 3), 13107, np.int32), 0.2),
    ],
)
def test_colors_are_scaled_to_one(color, expected):
    scene = make_scene("a", np.eye(4, 3), color=color)
    np.testing.assert_allclose(scene.color, expected, rtol=1e-5)


def color_of(values):
    scene = make_scene("a", np.eye(len(values), 3), color=values)
    assert scene.unusable == {}
    return scene.color


TYPES = ("u1", "u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">i4", ">f4")


@pytest.mark.parametrize("kind", TYPES)
def test_eight_bit_colors_are_the_same_in_any_type(kind):
    np.testing.assert_allclose(color_of(np.array([[0, 51, 102], [153, 204, 255]] * 2, kind))[1], [0.6, 0.8, 1])


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("u1", "i2", "f2")])
def test_sixteen_bit_colors_are_the_same_in_any_type(kind):
    values = np.array([[0, 13107, 26214], [39321, 52428, 65535]] * 2, kind)
    np.testing.assert_allclose(color_of(values)[1], [0.6, 0.8, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1.0000001, 0.5, -1e-7]] * 4, [1, 0.5, 0]),
        ([[1.004, 0.5, -0.004]] * 4, [1, 0.5, 0]),
        ([[255.4, 51, -0.4]] * 4, [1, 0.2, 0]),
        ([[65535.5, 13107, -0.5]] * 4, [1, 0.2, 0]),
        ([[256, 51, 0]] * 4, [1, 0.2, 0]),
        ([[2.0, 0, 0]] * 4, [2 / 255, 0, 0]),
    ],
)
def test_values_a_rounding_error_outside_their_range_are_clipped(values, expected):
    found = color_of(np.array(values))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1


def test_an_opacity_is_dropped_and_a_sign_that_was_declared_by_mistake_too():
    assert color_of(np.full((4, 4), 51, "u1")).shape == (4, 3)
    np.testing.assert_allclose(color_of(np.array([[0, 51, 204]] * 4, "u1").view("i1"))[0], [0, 0.2, 0.8])


def test_colors_are_scaled_scene_by_scene():
    dark = np.full((4, 3), 200, "u2")
    assert color_of(dark).max() == np.float32(200 / 255)
    dark[0, 0] = 300
    assert color_of(dark).max() == np.float32(300 / 65535)


@pytest.mark.parametrize("value", [-1.0, -0.01, 1.01, 1.9, 70000.0, 2.0**40, np.nan, np.inf])
def test_invalid_colors_are_listed_as_unusable(value):
    color = np.full((4, 3), 0.5)
    color[2, 1] = value
    scene = make_scene("a", np.eye(4, 3), color=color)
    assert scene.color is None
    assert "its colors" in scene.unusable["color"]


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (np.array([0.0, -1.0, np.nan, 3.0]), [0, -1, -1, 3]),
        (np.array([0, -100, 2, 3], np.int16), [0, -1, 2, 3]),
        (np.array([[0], [1], [2], [3]], np.uint8), [0, 1, 2, 3]),
        (np.array([0, 1, 2**32 - 1, 2], np.uint32), [0, 1, -1, 2]),
        (np.array([0, 1, 2**64 - 1, 2], np.uint64), [0, 1, -1, 2]),
        (np.array([0, 1, 2**32 - 1, 2], np.int64), [0, 1, -1, 2]),
        (np.array([0, 1, 2**32 - 1, 2], np.float32), [0, 1, -1, 2]),
        (np.array([0, 1, 2**64 - 1, 2], np.float64), [0, 1, -1, 2]),
        (np.array([0, 2**32 - 2, 2**32 - 100, 2], np.uint32), [0, -1, -1, 2]),
        (np.array([0, 2**64 - 2, 2**64 - 100, 2], np.uint64), [0, -1, -1, 2]),
        (np.array([0, 2**32 - 2, 2**32 - 100, 2], np.float64), [0, -1, -1, 2]),
        (np.array([0, 1, -np.inf, -(2.0**70)]), [0, 1, -1, -1]),
        (np.array([True, False, True, True]), [1, 0, 1, 1]),
        (np.array([0, np.nan, -1, 255], np.float16), [0, -1, -1, 255]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_labels_of_any_type_become_classes(segment, expected):
    assert make_scene("a", np.eye(4, 3), segment=segment).segment.tolist() == expected


@pytest.mark.parametrize(
    "segment",
    [np.array([0.5, 1, 2, 3]), np.full(4, np.inf), np.full(4, 2**40), np.full(4, 1e300), np.full(4, 2**32 - 2000)],
)
def test_invalid_labels_are_listed_as_unusable(segment):
    scene = make_scene("a", np.eye(4, 3), segment=segment)
    assert scene.segment is None
    assert "its labels" in scene.unusable["segment"]


@pytest.mark.parametrize(
    ("labels", "kind", "reserved"),
    [
        ([0, 1, 2, 255], "u1", 255),
        ([255] * 4, "u1", 255),
        ([0, 1, 2, 65535], "u2", 65535),
        ([0, 1, 2, 65535], ">u2", 65535),
        ([0, 1, 2, 255], "u2", None),
        ([0, 1, 2, 255], "i8", None),
        ([0, 1, 2, 255], "f8", None),
        ([0, 253, 254, 255], "u1", None),
        ([0, 1, 2, 254], "u1", None),
        ([0, 1, 2, 127], "i1", None),
    ],
)
def test_the_largest_value_of_an_unsigned_type_is_reserved_if_it_stands_apart(tmp_path, labels, kind, reserved):
    np.savez(tmp_path / "a.npz", coord=np.eye(4, 3), segment=np.array(labels, kind))
    raw = read_scene(tmp_path / "a.npz", keep_reserved_label=True)
    assert raw.reserved_label == reserved
    assert raw.segment.tolist() == labels
    expected = [-1 if label == reserved else label for label in labels]
    assert read_scene(tmp_path / "a.npz").segment.tolist() == expected


def test_normals_get_length_one_and_unknown_ones_stay_zero():
    normal = np.array([[0, 0, 2], [0, 0, 0], [1e300, 0, 0], [3e-200, 4e-200, 0]])
    found = make_scene("a", np.eye(4, 3), normal=normal).normal
    np.testing.assert_allclose(found, [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0.6, 0.8, 0]], atol=1e-6)


def test_a_file_of_holes_is_not_hashed(tmp_path: Path) -> None:
    with (tmp_path / "a.ply").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(
        DataError, match=r"a\.ply: has 1,000,000,000,000 bytes; files of at most 2,147,483,648 are read"
    ):
        scene_digest(tmp_path / "a.ply")
