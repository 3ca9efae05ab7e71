"""Write the points of a scene with results for each: binary PLY, `.npz`, and folders of `.npy` in Pointcept's layout.

Coordinates and order are those of the source. Every file is written atomically.

Legend: N points of the scene, D channels of features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dbbd_cli.core.files import atomic_file
from dbbd_cli.data.scenes.formats.names import SPHERICAL_HARMONICS, find_columns, simplified
from dbbd_cli.data.scenes.formats.npy import FOLDER_ARRAYS
from dbbd_cli.data.scenes.formats.ply import declared_properties, read_vertices
from dbbd_cli.data.scenes.scene import COLOR, COORD, MAX_POINTS, NORMAL, SEGMENT, SceneArrays, make_scene

Columns = dict[str, np.ndarray]
"""Name to values `(N,)` of each property of the points, in order."""

SCALAR = "scalar_"
"""CloudCompare shows the properties of a PLY file whose name begins with this; others only on request."""
_PLY_TYPES = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
    "f4": "float", "f8": "double",
}  # fmt: skip
"""The names of types that every program reads, unlike `float32`."""
_CHUNK = 1 << 18
"""Rows that are put together at once."""
_TOLERANCE = 1e-6
_CHANNELS = ("red", "green", "blue")
_NOT_IN_NAMES = re.compile(r"[^!-~]+")


def ply_columns(path: Path, arrays: SceneArrays) -> Columns:
    """The numbers of each point of a source, as columns for `write_ply`.

    Those of a PLY file keep their names (underscores for spaces), types and order; lists are left out. Other sources
    give `x y z`, `nx ny nz`, `red green blue`, `segment` and their properties. Integers too large for PLY become
    doubles.

    Args:
        path: the source.
        arrays: its content; see `reader.read_arrays`.

    Raises:
        ValueError: the file has changed since `arrays` were read.
        OSError: it cannot be read.
    """
    columns = _from_ply(path) if path.suffix.lower() == ".ply" and path.is_file() else _from_arrays(arrays)
    if any(len(values) != len(arrays.coord) for values in columns.values()):
        raise ValueError("changed while it was being read")
    return {name: _storable(values) for name, values in columns.items()}


def _from_ply(path: Path) -> Columns:
    declared = declared_properties(path)
    values = read_vertices(path, MAX_POINTS)
    axes = set(find_columns(declared)[COORD])
    columns: Columns = {}
    for name, (written, dtype) in declared.items():
        # Other programs refuse names with spaces.
        unspaced = _unused(written.replace(" ", "_"), columns)
        columns[unspaced] = _as_declared(values[name], dtype, exact=name in axes)
    return columns


def _as_declared(values: np.ndarray, dtype: np.dtype, *, exact: bool) -> np.ndarray:
    """The values in their declared type, which a text need not fit; if `exact`, with all digits that matter."""
    if dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype, copy=False)
    return values if exact and _loses_digits(values, narrow) else narrow


def _loses_digits(values: np.ndarray, narrow: np.ndarray) -> bool:
    """Whether rounding moves a coordinate by more than `_TOLERANCE` of the extent, as far from the origin."""
    if values.dtype == narrow.dtype:
        return False
    exact = values.astype(np.float64)
    return bool((np.abs(narrow - exact) > _TOLERANCE * np.ptp(exact)).any())


def _from_arrays(arrays: SceneArrays) -> Columns:
    scene = make_scene(arrays)  # parts that are invalid are not written
    columns = dict(zip("xyz", arrays.coord.T, strict=True))
    if scene.normal is not None and arrays.normal is not None:
        columns |= zip(("nx", "ny", "nz"), arrays.normal.T, strict=True)
    if scene.color is not None:
        columns |= zip(_CHANNELS, np.rint(scene.color * 255).astype(np.uint8).T, strict=True)
    if scene.segment is not None:
        columns[SEGMENT] = scene.segment.astype(np.int32)
    for name, values in scene.properties.items():
        columns[_unused(_NOT_IN_NAMES.sub("_", name) or "property", columns)] = values
    return columns


def _unused(name: str, columns: Columns) -> str:
    while name in columns:
        name += "_"
    return name


def _storable(values: np.ndarray) -> np.ndarray:
    """The values in a type that PLY has, with the same numbers; 64-bit integers that need it become doubles."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8)
    if kind == "f":
        return values if size in (4, 8) else values.astype(np.float32 if size == 2 else np.float64)
    if size == 8:
        narrow: type[np.signedinteger] | type[np.unsignedinteger] = np.int32 if kind == "i" else np.uint32
        limits = np.iinfo(narrow)
        fits = len(values) == 0 or (values.min() >= limits.min and values.max() <= limits.max)
        return values.astype(narrow if fits else np.float64)
    return values


def with_results(columns: Columns, results: Mapping[str, np.ndarray], color: np.ndarray | None = None) -> Columns:
    """The columns of a source followed by results, and with other colors.

    Args:
        columns: see `ply_columns`. Coordinates become real numbers, because not every program reads integers.
        results: name to values `(N,)`. They are written with `SCALAR` before the name; if the source has a property of
            that name, `predicted_` comes between.
        color: `(N, 3)` uint8, in place of the source's.
    """
    found = find_columns(columns)
    axes = found[COORD]
    table = {name: _real(values) if name in axes else values for name, values in columns.items()}
    if color is not None:
        new = dict(zip(_CHANNELS, color.T, strict=True))
        if (old := found.get(COLOR, ())) and tuple(map(simplified, old)) != SPHERICAL_HARMONICS:
            renamed = dict(zip(old, _CHANNELS, strict=True))
            table = {renamed.get(name, name): values for name, values in table.items()}
        table |= new
    taken = set(map(simplified, table))
    for name, values in results.items():
        prefix = f"{SCALAR}predicted_" if simplified(name) in taken else SCALAR
        table[_unused(prefix + name, table)] = _storable(values)
    return table


def _real(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return values
    narrow = values.astype(np.float32)
    return values.astype(np.float64) if _loses_digits(values, narrow) else narrow


def write_ply(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write points as a binary little-endian PLY file.

    Args:
        path: the file, which is replaced.
        columns: name to values `(N,)`, of types that PLY has.

    Raises:
        OSError: it cannot be written.
    """
    count = len(next(iter(columns.values())))
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property {_PLY_TYPES[values.dtype.str[1:]]} {name}" for name, values in columns.items()]
    row = np.dtype([(f"f{place}", values.dtype.newbyteorder("<")) for place, values in enumerate(columns.values())])
    with atomic_file(path) as file:
        file.write("\n".join([*lines, "end_header", ""]).encode("latin1"))
        for start in range(0, count, _CHUNK):
            rows = np.empty(min(_CHUNK, count - start), row)
            for place, values in enumerate(columns.values()):
                rows[f"f{place}"] = values[start : start + _CHUNK]
            file.write(rows.tobytes())


def array_parts(arrays: SceneArrays) -> dict[str, np.ndarray]:
    """The parts of a source, named like Pointcept's files: `coord`, and `color` (uint8) and `normal` if it has them.

    Its labels are left out: `segment` is for results.
    """
    scene = make_scene(arrays)
    parts = {COORD: arrays.coord}
    if scene.color is not None:
        parts[COLOR] = np.rint(scene.color * 255).astype(np.uint8)
    if scene.normal is not None:
        parts[NORMAL] = scene.normal
    return parts


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as an uncompressed `.npz` file, which is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]


def write_folder(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a folder of `.npy` files, coordinates last: without these, it is not a scene.

    Parts of a scene that the folder had before are removed.

    Raises:
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name in FOLDER_ARRAYS:
        (path / f"{name}.npy").unlink(missing_ok=True)
    for name in sorted(arrays, key=lambda name: name == COORD):
        with atomic_file(path / f"{name}.npy") as file:
            np.save(file, arrays[name], allow_pickle=False)
