"""Read scenes stored as NumPy arrays: `.npz` archives, and folders of `.npy` files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dbbd_cli.data.scenes.formats.blocks import slices
from dbbd_cli.data.scenes.formats.names import PROPERTY, scene_arrays
from dbbd_cli.data.scenes.formats.numpy_files import npz_names, read_npy, read_npz
from dbbd_cli.data.scenes.scene import COLOR, COORD, MAX_POINTS, NORMAL, SEGMENT, SceneArrays

COORD_FILE = "coord.npy"
"""A folder with this file is a scene."""
FOLDER_ARRAYS = ("coord", "normal", "color", "segment20", "segment")
"""The files of such a folder, without `.npy`."""
_MAX_VALUES = {
    COORD: 3 * MAX_POINTS,
    NORMAL: 3 * MAX_POINTS,
    COLOR: 4 * MAX_POINTS,
    SEGMENT: MAX_POINTS,
    PROPERTY: MAX_POINTS,
}
"""Maximum number of values of each part; colors may have an opacity."""


def read_archive(path: Path) -> SceneArrays:
    """Read a scene from an `.npz` file; see `reader` for what a reader returns and raises."""
    return scene_arrays(npz_names(path), lambda name, part: read_npz(path, name, _MAX_VALUES[part]))


def read_folder(path: Path) -> SceneArrays:
    """Read a scene from a folder of `.npy` files; see `reader` for what a reader returns and raises."""
    return _read_folder(path, mapped=False)


def folder_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read a scene from a folder of `.npy` files block by block.

    Raises:
        OSError, ValueError: as `read_folder`.
    """
    yield from slices(_read_folder(path, mapped=True))


def _read_folder(path: Path, *, mapped: bool) -> SceneArrays:
    files = folder_files(path)

    def read(name: str, part: str) -> np.ndarray:
        try:
            return read_npy(files[name], _MAX_VALUES[part], mapped=mapped)
        except ValueError as error:
            raise ValueError(f"its file {files[name].name} {error}") from error

    return scene_arrays(files, read)


def folder_files(path: Path) -> dict[str, Path]:
    """The files of a scene folder, by the names of their arrays.

    Raises:
        ValueError: the folder has no coordinates.
    """
    # Not exists(): a broken link is not a missing part.
    files = {name: path / f"{name}.npy" for name in FOLDER_ARRAYS if os.path.lexists(path / f"{name}.npy")}
    if COORD not in files:
        raise ValueError(f"is a folder without {COORD_FILE}")
    return files
