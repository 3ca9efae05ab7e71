"""Small valid scenes in every supported format, and values in JSON, from which odd ones are made."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from reader import SHARED

from dbbd_cli.data.array_cache import cached_arrays
from dbbd_cli.data.scenes.scene import SceneArrays

sys.path.append(str(Path(__file__).parents[2]))
from unit.data.scenes.formats import written

MAGIC = b"\x93NUMPY"
TREE_POINTS = 6
COORD = np.random.default_rng(0).random((TREE_POINTS, 3)).astype(np.float32)
COLOR = (np.arange(18).reshape(6, 3) * 10).astype(np.uint8)
SEGMENT = np.array([0, 1, 2, -1, 1, 0], dtype=np.int64)
TREE = {
    "indices": {"array": [0, 1, 2, 3, 4, 5], "dtype": "i8"},
    "center_idx": 0,
    "level": 0,
    "children": [
        {"indices": [0, 2, 4], "center_idx": 2, "level": 1, "children": []},
        {
            "indices": {"array": [1, 3, 5], "dtype": "i4"},
            "center_idx": 1,
            "level": 1,
            "children": [
                {"indices": [5], "center_idx": 5, "level": 2},
                {"indices": [1, 3], "center_idx": 3, "level": 2, "children": None},
            ],
        },
    ],
}


def ply_files() -> list[bytes]:
    files = []
    for form, order in (("ascii", "="), ("binary_little_endian", "<"), ("binary_big_endian", ">")):
        head = f"ply\nformat {form} 1.0\ncomment made up\nelement vertex 6\n"
        head += "".join(f"property float {axis}\n" for axis in "xyz")
        head += "".join(f"property uchar {color}\n" for color in ("red", "green", "blue")) + "property int label\n"
        tail = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        rows = [(*map(float, point), *map(int, COLOR[i]), int(SEGMENT[i])) for i, point in enumerate(COORD)]
        if order == "=":
            body = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode() + b"3 0 1 2\n"
        else:
            body = b"".join(struct.pack(order + "fffBBBi", *row) for row in rows) + struct.pack(
                order + "Biii", 3, 0, 1, 2
            )
        files.append((head + tail).encode() + body)
        lists = (
            f"ply\nformat {form} 1.0\nelement face 2\nproperty list uchar short i\nproperty char c\nelement vertex 4\n"
        )
        lists += "property double x\nproperty double y\nproperty double z\nproperty float nx\nproperty float ny\n"
        lists += "property float nz\nproperty ushort scalar_label\nend_header\n"
        faces = [((0, 1, 2), 5), ((), 6)]
        points = [(*map(float, COORD[i]), 0.0, 0.0, 2.0, i) for i in range(4)]
        if order == "=":
            text = "".join(f"{len(face)} {' '.join(map(str, face))} {c}\n" for face, c in faces)
            body = (text + "".join(" ".join(map(str, row)) + "\n" for row in points)).encode()
        else:
            body = b"".join(struct.pack(f"{order}B{len(face)}hb", len(face), *face, c) for face, c in faces)
            body += b"".join(struct.pack(order + "dddfffH", *row) for row in points)
        files.append(lists.encode() + body)
        files += _points_with_lists(form, order)
    return files + [_shortened_scan(path) for path in sorted((SHARED / "data" / "scans").glob("?.ply"))[:2]]


def _points_with_lists(form: str, order: str) -> list[bytes]:
    """Return PLY files as OpenMVS and Rhino write them, with lists of equal and of different lengths."""
    files = []
    for lengths, newline in (((2, 2, 2, 2), "\r"), ((0, 3, 1, 2), "\n")):
        head = ["ply", f"format {form} 1.0", "element vertex 4", *(f"property float {axis}" for axis in "xyz")]
        head += ["property list uchar ushort view_indices", "property uchar scalar_Label", "end_header", ""]
        rows = [(*map(float, COORD[i]), length, *range(length), i) for i, length in enumerate(lengths)]
        if order == "=":
            body = "".join(" ".join(map(str, row)) + newline for row in rows).encode()
        else:
            body = b"".join(struct.pack(f"{order}fffB{row[3]}HB", *row) for row in rows)
        files.append(newline.join(head).encode() + body)
    return files


def _shortened_scan(path: Path) -> bytes:
    """Return the first rows of a real scan."""
    head, end, body = path.read_bytes().partition(b"end_header\n")
    count = head.partition(b"element vertex ")[2].partition(b"\n")[0]
    return head.replace(b"vertex " + count, b"vertex 8", 1) + end + body[: 8 * 64]


def files_of(suffix: str) -> Any:
    """Return a function that returns small files of a format, written by its library."""

    def files() -> list[bytes]:
        scene = SceneArrays(COORD.astype(np.float64), COORD, COLOR, np.maximum(SEGMENT, 0))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{suffix}"
            if suffix == ".pcd":
                paths = [written.pcd(path.with_name(f"{data}.pcd"), scene, data) for data in written.PCD_DATA]
            elif suffix == ".csv":
                head = "x,y,z,r,g,b,nx,ny,nz,label\n"
                paths = [written.text(path, scene, ",", head), written.text(path.with_name("b.csv"), scene)]
            elif suffix in (".las", ".laz"):
                paths = [written.las(path, scene)]
            elif suffix == ".e57":
                paths = [written.e57(path, scene, 2)]
            else:
                paths = [written.mesh(path)]
            return [path.read_bytes() for path in paths]

    return files


def npy_of(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def npy_files() -> list[bytes]:
    arrays = [COORD, np.asfortranarray(COORD.astype(">f8")), SEGMENT.astype("i2"), np.array(3.5), np.zeros((0, 3), "?")]
    return [*map(npy_of, arrays), npy_of(COORD, (2, 0))]


def npz_files() -> list[bytes]:
    files = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, coord=COORD, normal=COORD - 0.5, color=COLOR, segment=SEGMENT)
        files.append(buffer.getvalue())
    return files


def sealed_zip(data: bytes) -> bytes:
    """Return the archive with correct checksums of all uncompressed members."""
    sealed = bytearray(data)
    checksums, start = {}, 0
    while (start := data.find(b"PK\x03\x04", start)) >= 0 and start + 30 <= len(data):
        size, name, extra = struct.unpack_from("<I4xHH", data, start + 18)
        body = start + 30 + name + extra
        if size in (0, 2**32 - 1):  # written as a stream: its size is elsewhere
            end = data.find(b"PK", body)
            size = max(end - body, 0)
        checksums[start] = zlib.crc32(data[body : body + size])
        struct.pack_into("<I", sealed, start + 14, checksums[start])
        start += 4
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0 and start + 46 <= len(data):
        (offset,) = struct.unpack_from("<I", data, start + 42)
        if offset in checksums and struct.unpack_from("<H", data, start + 10) == (0,):
            struct.pack_into("<I", sealed, start + 16, checksums[offset])
        start += 4
    return bytes(sealed)


def pickles() -> list[bytes]:
    values = [
        {"a": [1, -2, 2**40, 0.5, None, True], "b": ("é", b"bytes", {1, 2}, frozenset("x"), bytearray(b"c"))},
        {
            "array": COORD,
            "other": np.asfortranarray(COORD.astype(">f8")),
            "scalar": np.float32(2),
            "text": np.array(["a"]),
        },
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in (2, 3, 4, 5)]


def scene_pickles() -> list[bytes]:
    base = {"coords": COORD, "num_points": len(COORD)}
    tree = nested_of(json.dumps(TREE).encode())
    contents: list[dict[str, Any]] = [
        {**base, "normals": COORD - 0.5, "colors": COLOR, "segment20": SEGMENT, "hierarchy": tree},
        {"xyz": COORD.tolist(), "labels": SEGMENT.tolist(), "rgb": [tuple(map(int, row)) for row in COLOR]},
    ]
    return [pickle.dumps(content, protocol) for content in contents for protocol in (2, 4, 5)]


def folders() -> list[bytes]:
    return [b"".join(map(npy_of, (COORD, COORD - 0.5, COLOR, SEGMENT))), npy_of(COORD)]


def nested_trees() -> list[bytes]:
    alone = {key: value for key, value in TREE.items() if key != "children"}
    return [json.dumps(tree).encode() for tree in (TREE, alone)]


def nested_of(data: bytes) -> Any:
    """Return the value of a JSON text; {"array": [...], "dtype": D} is an array, {"same": N} the dict number N."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return data
    holder, met = [root], []
    waiting: list[tuple[Any, Any]] = [(holder, 0)]
    while waiting:
        container, key = waiting.pop()
        value = container[key]
        if isinstance(value, dict):
            if "array" in value:
                container[key] = _array_of(value)
                continue
            if type(value.get("same")) is int and met:
                container[key] = met[value["same"] % len(met)]
                continue
            met.append(value)
        if isinstance(value, (dict, list)):
            waiting += [(value, inner) for inner in (value if isinstance(value, dict) else range(len(value)))][::-1]
    return holder[0]


def _array_of(value: dict[str, Any]) -> Any:
    try:
        return np.array(value["array"], dtype=value.get("dtype"))
    except Exception:  # whatever numpy raises: it is not an array then
        return value["array"]


def cache_files() -> list[bytes]:
    arrays = {"coord": COORD, "parent": np.array([-1, 0, 0, 2, 2], "i4")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene-a.arrays"
        cached_arrays(path, lambda: arrays, lambda _: True)
        return [path.read_bytes()]
