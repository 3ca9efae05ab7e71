"""Scenes from files and folders, whatever their kind."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.array_file import npz_names, read_npy, read_npz
from dbbd_cli.data.findings import why
from dbbd_cli.data.scenes.formats.names import (
    ARRAY_NAMES,
    COLOR,
    COORD,
    NORMAL,
    SEGMENT,
    SPHERICAL_HARMONICS,
    find_arrays,
    find_columns,
    simplified,
)
from dbbd_cli.data.scenes.formats.ply import read_ply
from dbbd_cli.data.scenes.pickled_arrays import load_plain
from dbbd_cli.data.scenes.pickles.parts import RefusedPickleError
from dbbd_cli.data.scenes.scene import MAX_POINTS, Scene, make_scene

MAX_BYTES = 2**31
"""Largest file that is read."""

_HINT = "fix or remove the file"

COORD_FILE = "coord.npy"
"""What makes a folder a scene."""

FOLDER_FILES = ("coord", "normal", "color", "segment20", "segment")
"""The arrays of such a folder, without `.npy`."""
_MAX_VALUES = {COORD: 3 * MAX_POINTS, NORMAL: 3 * MAX_POINTS, COLOR: 4 * MAX_POINTS, SEGMENT: MAX_POINTS}
"""Most values of each part; colors may have an opacity."""
_WIDTHS = {COORD: (3,), NORMAL: (3,), COLOR: (3, 4), SEGMENT: ()}
"""Numbers per row of each part; empty if a row is a number."""
_SINGLE = (str, int, float, np.number)
"""Types of values that describe the scene as a whole, such as the `category` of an object."""
_MEANINGS = {name: part for part, names in ARRAY_NAMES.items() for name in names}
_FIRST_HARMONIC = 0.5 / np.sqrt(np.pi)


def read_scene(path: Path, *, keep_reserved_label: bool = False) -> Scene:
    """Reads a scene: a file `.pkl`, `.ply` or `.npz`, or a folder with `coord.npy`.

    Damage to anything other than coordinates and tree does not prevent reading: see `Scene.unusable`.

    Args:
        path: the file or folder.
        keep_reserved_label: whether points keep the label that means "ignore" by convention (`Scene.reserved_label`).

    Raises:
        DataError: it cannot be read, or is not a scene; the message names the file and the reason.
    """
    scene = _read(path)
    return scene if keep_reserved_label else scene.without_reserved_label()


def _read(path: Path) -> Scene:
    try:
        if path.is_dir():
            return _read_folder(path)
        read = _READERS.get(path.suffix.lower())
        if read is None:
            raise ValueError(f"is of an unknown kind; scenes are {', '.join(SCENE_SUFFIXES)} or folders of .npy")
        _check_size(path)
        return read(path)
    except RefusedPickleError as error:
        raise DataError(
            f"{printable(str(path))} was not loaded, and nothing in it was run: it {error}",
            hint="save the scene as a dict of plain numpy arrays or torch tensors, or do not trust the file",
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        reason = (
            f"cannot be opened: {why(error)}"
            if isinstance(error, OSError)
            else str(error) or "does not fit into the memory that is free"
        )
        raise DataError(f"{printable(str(path))}: {printable(reason)}", hint=_HINT) from error


def scene_digest(path: Path) -> str:
    """SHA-256 of a scene's content: of its file, or of those files of a folder that make the scene.

    Raises:
        DataError: a file cannot be read, is empty or too large.
    """
    digest = hashlib.sha256()
    try:
        files = _folder_files(path) if path.is_dir() else {"": path}
        for name, file in files.items():
            _check_size(file, f"its file {file.name} " if name else "")
            digest.update(f"{name}:{file.stat().st_size}:".encode() if name else b"")
            with file.open("rb") as opened:
                while part := opened.read(1 << 20):
                    digest.update(part)
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be opened: {why(error)}") from error
    except ValueError as error:
        raise DataError(f"{printable(str(path))}: {error}", hint=_HINT) from error
    return digest.hexdigest()


def _check_size(path: Path, what: str = "") -> None:
    if not path.is_file():
        if path.exists():  # opening a pipe would block forever
            raise ValueError(f"{what}is not a regular file")
        if path.is_symlink():
            raise ValueError(f"{what}is a link to a missing file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{what}is an empty file")
    if size > MAX_BYTES:
        raise ValueError(f"{what}has {size:,} bytes; files of at most {MAX_BYTES:,} are read")


def _folder_files(path: Path) -> dict[str, Path]:
    # Not exists(): a link to a missing file is not a missing part.
    return {name: path / f"{name}.npy" for name in FOLDER_FILES if os.path.lexists(path / f"{name}.npy")}


def _read_folder(path: Path) -> Scene:
    files = _folder_files(path)
    if "coord" not in files:
        raise ValueError(f"is a folder without {COORD_FILE}")
    for file in files.values():
        _check_size(file, f"its file {file.name} ")

    def read(name: str, max_values: int) -> np.ndarray:
        try:
            return read_npy(files[name], max_values)
        except ValueError as error:
            raise ValueError(f"its file {files[name].name} {error}") from error

    return _scene_of(path.name, files, read)


def _read_npz(path: Path) -> Scene:
    return _scene_of(path.stem, npz_names(path), lambda name, most: read_npz(path, {name}, most)[name])


def _read_pkl(path: Path) -> Scene:
    # Mapped: of a file of holes nothing is read but what the pickle in it leads to.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"PK\x03\x04":
            raise ValueError("was written by torch.save, not by pickle; save it with pickle.dump")
        content = load_plain(data)
    if not isinstance(content, dict):
        raise ValueError("does not hold a dict with the arrays of a scene")
    hierarchy = content.get("hierarchy")
    if hierarchy is not None and not isinstance(hierarchy, dict):
        raise ValueError("its hierarchy is no dict")
    keys: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(key, str) and value is not None and not isinstance(value, _SINGLE):
            keys.setdefault(key.lower(), key)

    def read(name: str, most: int) -> np.ndarray:
        return _array(keys[name], content[keys[name]], _WIDTHS[_MEANINGS[simplified(name)]])

    scene = _scene_of(path.stem, keys, read, hierarchy)
    promised = content.get("num_points")
    if isinstance(promised, (int, np.integer)) and promised != scene.num_points:
        raise ValueError(f"says that it has {promised:,} points, and has {scene.num_points:,}")
    return scene


def _array(name: str, value: object, widths: tuple[int, ...]) -> np.ndarray:
    """The array `name` of a pickle, which may be a list of numbers, or of rows with one of the `widths`."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, (list, tuple)) or len(value) > MAX_POINTS:
        raise ValueError(f"its {name} is no array")
    flat = list(value)
    # Checked first: a short file could hold one long row, ten million times.
    width = next((width for width in widths if all(_has_width(row, width) for row in value)), None)
    if width:
        flat = [item for row in value for item in row]
    elif widths:
        raise ValueError(f"its {name} is not a list of rows of {' or '.join(map(str, widths))} numbers")
    if not all(isinstance(item, (int, float, np.number)) for item in flat):
        raise ValueError(f"its {name} holds something else than numbers")
    try:
        return np.array(flat).reshape((-1, width) if width else -1)
    except OverflowError as error:
        raise ValueError(f"its {name} holds numbers that are too large") from error


def _has_width(row: object, width: int) -> bool:
    if isinstance(row, np.ndarray):
        return row.shape == (width,)
    return isinstance(row, (list, tuple)) and len(row) == width


def _scene_of(
    name: str, names: Iterable[str], read: Callable[[str, int], np.ndarray], hierarchy: dict[Any, Any] | None = None
) -> Scene:
    """A scene of arrays whose names say what they are.

    Args:
        name: of the scene.
        names: of the arrays.
        read: reads the array of a name, of at most so many values; raises ValueError if it cannot be used.
        hierarchy: the tree.
    """
    found = find_arrays(names)
    if COORD not in found:
        raise ValueError(f"has no coordinates: none of {', '.join(ARRAY_NAMES[COORD][:4])} is in it")
    parts = {COORD: read(found.pop(COORD), _MAX_VALUES[COORD])}
    unusable = {}
    for part, array in found.items():
        try:
            parts[part] = read(array, _MAX_VALUES[part])
        except ValueError as error:
            unusable[part] = str(error)
    return _scene(name, parts, hierarchy, unusable)


def _read_ply(path: Path) -> Scene:
    columns = read_ply(path, MAX_POINTS)
    found = find_columns(columns)
    if COORD not in found:
        raise ValueError(f"its points have no x, y and z, but {', '.join(columns)[:200]}")
    parts = {part: np.stack([columns[name] for name in names], axis=1) for part, names in found.items()}
    if COLOR in found and tuple(map(simplified, found[COLOR])) == SPHERICAL_HARMONICS:
        parts[COLOR] = np.clip(0.5 + _FIRST_HARMONIC * parts[COLOR].astype(np.float64), 0, 1)
    return _scene(path.stem, parts)


def _scene(
    name: str,
    parts: Mapping[str, np.ndarray],
    hierarchy: dict[Any, Any] | None = None,
    unusable: Mapping[str, str] | None = None,
) -> Scene:
    normal, color, segment = (parts.get(part) for part in (NORMAL, COLOR, SEGMENT))
    return make_scene(
        name, parts[COORD], normal=normal, color=color, segment=segment, hierarchy=hierarchy, unusable=unusable
    )


_READERS: dict[str, Callable[[Path], Scene]] = {".pkl": _read_pkl, ".ply": _read_ply, ".npz": _read_npz}

SCENE_SUFFIXES = tuple(_READERS)
"""Names of files that hold a scene end so, in lower case."""
