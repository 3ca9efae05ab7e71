"""Writing points with results: what is written, read back by our reader and by another library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.ply import declared_properties, read_vertices
from dbbd_cli.data.scenes.reader import read_arrays, read_scene
from dbbd_cli.data.scenes.scene import SceneArrays
from dbbd_cli.data.scenes.writing import array_parts, ply_columns, with_results, write_folder, write_npz, write_ply

FAR = np.array([412_345.125, 5_654_321.0625, 101.5])
"""Coordinates of a map: float32 would round them to half a meter."""


def survey(path: Path, kind: str = "binary_big_endian 1.0") -> np.ndarray:
    """Write 50 points as a scanner would, with names and types of many kinds."""
    rng = np.random.default_rng(0)
    row = np.dtype([
        ("x", ">f8"), ("y", ">f8"), ("z", ">f8"), ("scalar_Intensity", ">u2"), ("red", "u1"), ("green", "u1"),
        ("blue", "u1"), ("GPS_time", ">f8"), ("Return", "i1"), ("label", ">i4"),
    ])  # fmt: skip
    points = np.zeros(50, row)
    for axis, start in zip("xyz", FAR, strict=True):
        points[axis] = start + rng.integers(0, 64, 50) / 64
    points["scalar_Intensity"] = rng.integers(0, 65535, 50)
    for channel in ("red", "green", "blue"):
        points[channel] = rng.integers(0, 255, 50)
    points["GPS_time"] = 1.2345678901e9 + rng.random(50)
    points["Return"] = rng.integers(-3, 4, 50)
    points["label"] = rng.integers(0, 5, 50)
    names = {"f8": "double", "u2": "ushort", "u1": "uchar", "i1": "char", "i4": "int"}
    header = "".join(f"property {names[row[name].str[1:]]} {name}\n" for name in row.names or ())
    content = points.tobytes()
    if kind.startswith("ascii"):
        content = "".join(" ".join(repr(value.item()) for value in point) + "\n" for point in points).encode()
    path.write_bytes(f"ply\nformat {kind}\nelement vertex 50\n{header}end_header\n".encode() + content)
    return points


@pytest.mark.parametrize("kind", ["binary_big_endian 1.0", "ascii 1.0"])
def test_every_property_of_a_ply_file_is_kept_with_its_name_and_type(tmp_path: Path, kind: str) -> None:
    points = survey(tmp_path / "scan.ply", kind)
    columns = ply_columns(tmp_path / "scan.ply", read_arrays(tmp_path / "scan.ply"))
    label, confidence = np.arange(50, dtype=np.int32), np.linspace(0, 1, 50, dtype=np.float32)
    color = np.random.default_rng(1).integers(0, 256, (50, 3), dtype=np.uint8)
    write_ply(tmp_path / "new.ply", with_results(columns, {"label": label, "confidence": confidence}, color))

    declared = declared_properties(tmp_path / "new.ply")
    found = read_vertices(tmp_path / "new.ply", 100)
    for name in points.dtype.names or ():
        assert declared[name.lower()] == (name, points.dtype[name].newbyteorder("="))
        if name not in ("red", "green", "blue"):
            np.testing.assert_array_equal(found[name.lower()], points[name])
    np.testing.assert_array_equal(np.stack([found[name] for name in ("red", "green", "blue")], axis=1), color)
    np.testing.assert_array_equal(found["scalar_predicted_label"], label)  # the source has labels of its own
    np.testing.assert_array_equal(found["scalar_confidence"], confidence)
    assert [declared[name][1] for name in ("scalar_predicted_label", "scalar_confidence")] == [np.int32, np.float32]


def test_another_library_reads_the_same_points(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    points = survey(tmp_path / "scan.ply")
    columns = ply_columns(tmp_path / "scan.ply", read_arrays(tmp_path / "scan.ply"))
    color = np.random.default_rng(1).integers(0, 256, (50, 3), dtype=np.uint8)
    write_ply(tmp_path / "new.ply", with_results(columns, {"confidence": np.ones(50, np.float32)}, color))
    cloud = trimesh.load(tmp_path / "new.ply", process=False)
    np.testing.assert_array_equal(cloud.vertices, np.stack([points[axis] for axis in "xyz"], axis=1))
    np.testing.assert_array_equal(cloud.colors[:, :3], color)
    assert cloud.metadata["_ply_raw"]["vertex"]["data"]["scalar_Intensity"].tolist() == (
        points["scalar_Intensity"].tolist()
    )


def test_names_with_spaces_are_written_as_other_libraries_read_them(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    names = ["x", "y", "z", "scalar_GPS time", "scalar_GPS_time"]
    table = np.random.default_rng(0).random((20, 5), np.float32)
    header = "".join(f"property float {name}\n" for name in names)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex 20\n{header}end_header\n"
    (tmp_path / "scan.ply").write_bytes(head.encode() + table.astype("<f4").tobytes())
    write_ply(tmp_path / "new.ply", ply_columns(tmp_path / "scan.ply", read_arrays(tmp_path / "scan.ply")))
    data = trimesh.load(tmp_path / "new.ply", process=False).metadata["_ply_raw"]["vertex"]["data"]
    for name, values in zip(["x", "y", "z", "scalar_GPS_time", "scalar_GPS_time_"], table.T, strict=True):
        np.testing.assert_array_equal(np.squeeze(data[name]), values)


def test_coordinates_of_a_text_keep_the_digits_that_float_would_lose(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    rows = ["0.1 0.2 0.3", "1.1 0.2 0.3", "0.1 1.2 0.3", "0.1 0.2 1.3"]
    near, far = tmp_path / "near.ply", tmp_path / "far.ply"
    near.write_text(header + "end_header\n" + "\n".join(rows))
    far.write_text(header + "end_header\n" + "\n".join("412345" + row[1:] for row in rows))
    types = {path.stem: ply_columns(path, read_arrays(path))["x"].dtype for path in (near, far)}
    assert types == {"near": np.float32, "far": np.float64}


def test_other_sources_become_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = SceneArrays(
        coord=rng.integers(0, 1000, (20, 3)),
        normal=rng.normal(size=(20, 3)),
        color=rng.random((20, 3)),
        segment=rng.integers(0, 3, 20),
        properties={
            "number of returns": rng.integers(0, 5, 20),
            "time": rng.integers(2**40, 2**41, 20),
            "x": rng.random(20),
        },
    )
    columns = with_results(ply_columns(tmp_path / "scan.npz", arrays), {"label": np.zeros(20, np.int64)})
    write_ply(tmp_path / "new.ply", columns)
    found = read_vertices(tmp_path / "new.ply", 100)
    assert [*declared_properties(tmp_path / "new.ply")] == [
        *("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "segment"),
        *("number_of_returns", "time", "x_", "scalar_label"),
    ]
    np.testing.assert_array_equal(found["time"], arrays.properties["time"])
    np.testing.assert_array_equal(np.stack([found[axis] for axis in "xyz"], axis=1), arrays.coord)
    assert found["x"].dtype == np.float32
    assert found["scalar_label"].dtype == np.int32


def test_results_have_the_prefix_that_cloudcompare_looks_for_and_their_labels_are_read_again(tmp_path: Path) -> None:
    columns = dict(zip("xyz", np.random.default_rng(0).random((3, 20)), strict=True))
    results = {"label": np.arange(20), "confidence": np.ones(20, np.float32)}
    once = with_results(columns, results)
    assert [*once][3:] == ["scalar_label", "scalar_confidence"]
    twice = with_results(once, results)
    assert [*twice][5:] == ["scalar_predicted_label", "scalar_predicted_confidence"]
    write_ply(tmp_path / "new.ply", once)
    segment = read_scene(tmp_path / "new.ply").segment
    assert segment is not None
    assert segment.tolist() == [*range(20)]


def test_new_colors_take_the_place_of_old_ones() -> None:
    columns = {name: np.zeros(5, np.float32) for name in ("x", "y", "z", "r", "g", "b", "alpha")}
    color = np.arange(15, dtype=np.uint8).reshape(5, 3)
    table = with_results(columns, {}, color)
    assert [*table] == ["x", "y", "z", "red", "green", "blue", "alpha"]
    assert table["green"].tolist() == color[:, 1].tolist()
    splat = {name: np.zeros(5, np.float32) for name in ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2")}
    assert [*with_results(splat, {}, color)] == [*splat, "red", "green", "blue"]


def test_arrays_are_scenes_again(tmp_path: Path) -> None:
    survey(tmp_path / "scan.ply")
    arrays = read_arrays(tmp_path / "scan.ply")
    parts = {**array_parts(arrays), "segment": np.arange(50, dtype=np.int32), "feature": np.ones((50, 7), np.float32)}
    write_folder(tmp_path / "folder", parts)
    write_npz(tmp_path / "archive.npz", parts)
    for path in (tmp_path / "folder", tmp_path / "archive.npz"):
        scene = read_scene(path)
        np.testing.assert_allclose(scene.coord + scene.shift, arrays.coord, rtol=0, atol=1e-6)
        assert scene.segment is not None
        assert scene.segment.tolist() == list(range(50))
        assert scene.color is not None
        np.testing.assert_array_equal(np.rint(scene.color * 255), arrays.color)
    assert np.load(tmp_path / "folder" / "feature.npy").shape == (50, 7)


def test_a_folder_keeps_no_parts_of_an_earlier_result(tmp_path: Path) -> None:
    survey(tmp_path / "scan.ply")
    parts = {**array_parts(read_arrays(tmp_path / "scan.ply")), "segment": np.arange(50, dtype=np.int32)}
    write_folder(tmp_path / "folder", parts)
    (tmp_path / "folder" / "notes.txt").write_text("of the user")
    write_folder(tmp_path / "folder", {"coord": parts["coord"], "feature": np.ones((50, 7), np.float32)})
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["coord.npy", "feature.npy", "notes.txt"]


def test_a_source_that_changed_in_the_meantime_is_refused(tmp_path: Path) -> None:
    survey(tmp_path / "scan.ply")
    arrays = read_arrays(tmp_path / "scan.ply")
    with pytest.raises(ValueError, match="changed while it was being read"):
        ply_columns(tmp_path / "scan.ply", SceneArrays(arrays.coord[:-1]))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new.ply"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_ply(path, {"x": np.zeros(3, np.complex64)})
    with pytest.raises(ValueError, match="broadcast"):
        write_ply(path, {"x": np.zeros(3, np.float32), "y": np.zeros(2, np.float32)})
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["new.ply"]
