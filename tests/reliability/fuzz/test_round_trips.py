"""Scenes, arrays, trees, pictures and tensors read back equal to what was written."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image
from properties import round_trips
from reader import write_once
from scene_readers import check_scene
from scene_seeds import npy_of

from dbbd_cli.data.array_cache import cached_arrays, read_arrays
from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.scenes.formats.numpy_files import npz_names, read_npy, read_npz
from dbbd_cli.data.scenes.formats.ply import read_vertices
from dbbd_cli.data.scenes.pickles.arrays import load_plain
from dbbd_cli.data.scenes.reader import read_scene
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.model.weights import load_tensors

PLY_TYPES = {
    "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d",
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f", "float64": "d",
}  # fmt: skip


KEY_NUMBERS = st.integers(-(2**63), 2**63 - 1)
"""Larger integers, which may collide as keys, are refused."""


def plain_values(shortest: int) -> st.SearchStrategy[Any]:
    """Return containers, numbers, texts, and bytes of at least `shortest` bytes."""
    texts = st.text(max_size=8) | st.binary(min_size=shortest, max_size=8)
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=4) | KEY_NUMBERS, inner, max_size=4)
            | st.sets(KEY_NUMBERS | st.text(max_size=4), max_size=4)
        ),
        max_leaves=10,
    )


SHAPES = numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
NUMBERS = (
    numpy_strategies.boolean_dtypes()
    | numpy_strategies.integer_dtypes(endianness="?")
    | numpy_strategies.unsigned_integer_dtypes(endianness="?")
    | numpy_strategies.floating_dtypes(endianness="?", sizes=(16, 32, 64))
)
ARRAYS = numpy_strategies.arrays(NUMBERS, SHAPES)
COORDS = numpy_strategies.arrays(
    np.float64, st.tuples(st.integers(4, 12), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)
).filter(lambda coord: np.ptp(coord, axis=0).max() > 1e-2)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two arrays have the same type, shape and bits."""
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


@round_trips
@given(ARRAYS, st.booleans())
def test_arrays(tmp_path: Path, array: np.ndarray, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array
    assert same(read_npy(write_once(tmp_path / "a.npy", npy_of(array)), 1000), array)


@round_trips
@given(st.dictionaries(st.sampled_from(["coord", "normal", "other", "SEGMENT"]), ARRAYS, max_size=4), st.booleans())
def test_archives_of_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    path = write_once(tmp_path / "a.npz", buffer.getvalue())
    assert npz_names(path) == [name.lower() for name in arrays]
    assert all(same(read_npz(path, name.lower(), 1000), array) for name, array in arrays.items())


@round_trips
@given(
    st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]),
    st.lists(st.sampled_from(sorted(PLY_TYPES)), min_size=1, max_size=5),
    st.integers(0, 6),
    st.data(),
)
def test_ply_files(tmp_path: Path, form: str, kinds: list[str], count: int, data: st.DataObject) -> None:
    order = ">" if form == "binary_big_endian" else "<"
    layout = order + "".join(PLY_TYPES[kind] for kind in kinds)
    raw = data.draw(st.binary(min_size=count * struct.calcsize(layout), max_size=count * struct.calcsize(layout)))
    rows = list(struct.iter_unpack(layout, raw)) if raw else []
    head = f"ply\nformat {form} 1.0\nelement vertex {count}\n"
    head += "".join(f"property {kind} P{i}\n" for i, kind in enumerate(kinds)) + "end_header\n"
    body = raw if form != "ascii" else "".join(" ".join(map(repr, row)) + "\n" for row in rows).encode()
    columns = read_vertices(write_once(tmp_path / "a.ply", head.encode() + body), 10)
    assert columns.keys() == {f"p{i}" for i in range(len(kinds))}
    for i in range(len(kinds)):
        column = columns[f"p{i}"]
        expected = np.array([row[i] for row in rows], column.dtype)
        declared = np.dtype(PLY_TYPES[kinds[i]])
        assert column.dtype == (np.float64 if form == "ascii" and declared.kind == "f" else declared)
        np.testing.assert_array_equal(column, expected)


@round_trips
@given(plain_values(0), ARRAYS, st.integers(2, 5), st.booleans())
def test_pickles(value: Any, array: np.ndarray, protocol: int, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array
    assert load_plain(pickle.dumps(value, protocol)) == value
    found = load_plain(pickle.dumps({"array": array, "again": [array]}, protocol))
    assert same(found["array"], array)
    assert found["again"][0] is found["array"]


@round_trips
@given(COORDS, st.sampled_from([".pkl", ".npz", ".ply", ""]), st.data())
def test_scenes(tmp_path: Path, coord: np.ndarray, suffix: str, data: st.DataObject) -> None:
    count = len(coord)
    color = data.draw(numpy_strategies.arrays(np.uint8, (count, 3)))
    segment = data.draw(numpy_strategies.arrays(np.int32, count, elements=st.integers(-5, 50)))
    path = tmp_path / f"scene{suffix}"
    if suffix == ".pkl":
        write_once(path, pickle.dumps({"coords": coord, "colors": color, "segment20": segment}))
    elif suffix == ".npz":
        np.savez(path, coord=coord, rgb=color, label=segment)
    elif suffix == ".ply":
        names = (*(f"double {axis}" for axis in "xyz"), "uchar red", "uchar green", "uchar blue", "int label")
        head = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
        head += "".join(f"property {name}\n" for name in names) + "end_header\n"
        rows = (struct.pack("<dddBBBi", *coord[i], *color[i], segment[i]) for i in range(count))
        write_once(path, head.encode() + b"".join(rows))
    else:
        path.mkdir(exist_ok=True)
        for name, array in {"coord": coord, "color": color, "segment": segment}.items():
            np.save(path / f"{name}.npy", array)
    scene = read_scene(path)
    check_scene(scene)
    np.testing.assert_allclose(scene.coord + scene.shift, coord, atol=0.2)  # float32 within 10 million units
    assert scene.color is not None
    assert scene.segment is not None
    np.testing.assert_array_equal(np.rint(scene.color * 255), color)
    np.testing.assert_array_equal(scene.segment, np.maximum(segment, -1))


@st.composite
def trees(draw: st.DrawFn, points: tuple[int, ...] = tuple(range(12)), level: int = 0) -> dict[str, Any]:
    """Return randomly divided regions in the nested form of a file."""
    order = draw(st.permutations(points))
    region = {"indices": draw(st.sampled_from([list, tuple, np.array]))(order), "level": level}
    region["center_idx"] = draw(st.sampled_from(order))
    region["children"] = []
    if len(order) > 1 and level < 4 and draw(st.booleans()):
        cut = draw(st.integers(1, len(order) - 1))
        region["children"] = [draw(trees(tuple(part), level + 1)) for part in (order[:cut], order[cut:])]
    return region


@round_trips
@given(trees())
def test_trees(root: dict[str, Any]) -> None:
    tree = tree_from_nested(root, 12)
    expected = []
    waiting = [(root, -1)]
    while waiting:
        region, parent = waiting.pop()
        row = len(expected)
        expected.append((parent, region["level"], region["center_idx"], list(region["indices"])))
        waiting += [(child, row) for child in reversed(region["children"])]
    rows = zip(tree.parent, tree.level, tree.center_idx, map(tree.region, range(tree.num_regions)), strict=True)
    assert [(int(p), int(level), int(c), points.tolist()) for p, level, c, points in rows] == expected


@round_trips
@given(numpy_strategies.arrays(np.uint8, (8, 8, 3)), st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"]))
def test_pictures(pixels: np.ndarray, form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    assert same(decode_image(buffer.getvalue(), 8), pixels)


@round_trips
@given(st.dictionaries(st.text(max_size=6), ARRAYS, min_size=1, max_size=3))
def test_cached_arrays(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "scene-a.arrays"
    path.unlink(missing_ok=True)
    cached_arrays(path, lambda: arrays, lambda _: True)
    found = read_arrays(path, lambda _: True)
    assert found is not None
    assert list(found) == list(arrays)
    assert all(same(found[name], array) for name, array in arrays.items())


@round_trips
@given(plain_values(1), ARRAYS.filter(lambda array: array.dtype.isnative and array.dtype.kind != "u"), st.booleans())
def test_tensors(tmp_path: Path, value: Any, array: np.ndarray, archive: bool) -> None:
    tensor = torch.from_numpy(array)
    torch.save({"value": value, "tensor": tensor}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    found = load_tensors(tmp_path / "a.pth")
    assert isinstance(found, dict)
    assert found["value"] == value
    assert same(found["tensor"].numpy(), array)
