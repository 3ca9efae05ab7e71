"""Read scenes of every format.

To read a new format, add a module to `formats` with one function, and a line to `READERS`:

    def read_table(path: Path) -> SceneArrays:
        table = np.loadtxt(path, ndmin=2, max_rows=MAX_POINTS + 1)
        return SceneArrays(coord=table[:, :3], segment=table[:, 3])

A reader gets the path of a regular file of 1 byte to 2 GiB with its suffix, and returns the content:

- `coord`: `(N, 3)`, the only part that is required. Any integer or float type, any unit, any distance from the origin.
- `normal`: `(N, 3)`, of any length; a row of zeros or with NaN means unknown.
- `color`: `(N, 3)`, or `(N, 4)` with an opacity, which is dropped; 0 to 1, 0 to 255 or 0 to 65,535, in any type.
- `segment`: `(N,)` integer labels, in any type; negative values and NaN mean unlabeled.
- `hierarchy`: the region tree as nested dicts; see `trees.nested`.
- `properties`: other numbers of each point by name, `(N,)` each, such as intensity.
- `unusable`: optional parts that could not be read, and why: `{"color": "…"}`.

`read_scene` does the rest: it checks shapes, types and ranges, converts the arrays to those of `Scene`, drops optional
parts that are invalid, and turns exceptions into a `DataError` that names the file. A reader raises `OSError` if the
file cannot be read, and `ValueError` if it is damaged or not a scene, with a message that completes "the file …", such
as "is truncated". It never allocates memory based on a header alone, and reads at most `MAX_POINTS` points. A format of
large scans also has a function in `BLOCK_READERS`, which yields the points block by block, without this limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.problems import why
from dbbd_cli.data.scenes.formats.blocks import MAX_BYTES, slices
from dbbd_cli.data.scenes.formats.e57 import e57_blocks, read_e57
from dbbd_cli.data.scenes.formats.las import las_blocks, read_las, without_unset_classes
from dbbd_cli.data.scenes.formats.mesh import MESH_POINTS, MESH_SUFFIXES, read_mesh
from dbbd_cli.data.scenes.formats.npy import folder_blocks, folder_files, read_archive, read_folder
from dbbd_cli.data.scenes.formats.optional import MissingPackageError
from dbbd_cli.data.scenes.formats.pcd import pcd_blocks, read_pcd
from dbbd_cli.data.scenes.formats.pkl import read_pickle
from dbbd_cli.data.scenes.formats.ply import ply_blocks, read_ply
from dbbd_cli.data.scenes.formats.text import read_text, text_blocks
from dbbd_cli.data.scenes.pickles.machine import RefusedPickleError
from dbbd_cli.data.scenes.scene import IGNORE, Scene, SceneArrays, make_scene
from dbbd_cli.data.scenes.thinning import thinned

TEXT_SUFFIXES = (".xyz", ".xyzn", ".xyzrgb", ".pts", ".asc", ".txt", ".csv")
READERS: dict[str, Callable[[Path], SceneArrays]] = {
    ".pkl": read_pickle,
    ".ply": read_ply,
    ".npz": read_archive,
    ".pcd": read_pcd,
    ".las": read_las,
    ".laz": read_las,
    ".e57": read_e57,
    **dict.fromkeys(TEXT_SUFFIXES, read_text),
    **dict.fromkeys(MESH_SUFFIXES, read_mesh),
}
"""Suffix of a file, in lower case, to its reader. A folder is read by `read_folder`."""
BLOCK_READERS: dict[str, Callable[[Path], Iterator[SceneArrays]]] = {
    ".ply": ply_blocks,
    ".pcd": pcd_blocks,
    ".las": las_blocks,
    ".laz": las_blocks,
    ".e57": e57_blocks,
    **dict.fromkeys(TEXT_SUFFIXES, text_blocks),
}
"""The formats that are read block by block if the scan is thinned to a grid."""

MAX_BLOCK_BYTES = 2**34
"""Size limit of a file with a reader in `BLOCK_READERS`."""
_HINT = "fix or remove the file"


@dataclass(frozen=True)
class Sampling:
    """Which points are read of a scene.

    Attributes:
        grid_size: side of the cells of a grid of which one point each is read, in the unit of the scene; None: all.
        mesh_points: number of points that are sampled from a mesh.
    """

    grid_size: float | None = None
    mesh_points: int = MESH_POINTS


EVERY_POINT = Sampling()


def read_scene(path: Path, *, keep_reserved_label: bool = False, sampling: Sampling = EVERY_POINT) -> Scene:
    """Read a scene: a file with a suffix in `READERS`, or a folder with `coord.npy`.

    Damage to anything other than coordinates and tree does not prevent reading: see `Scene.unusable`.

    Args:
        path: the file or folder.
        keep_reserved_label: whether points keep the label that by convention is not a class (`Scene.reserved_label`).
        sampling: which points to read.

    Raises:
        DataError: it cannot be read, or is not a scene; the message names the file and the reason.
    """
    return checked_scene(path, read_arrays(path, sampling), keep_reserved_label=keep_reserved_label)


def checked_scene(path: Path, arrays: SceneArrays, *, keep_reserved_label: bool = False) -> Scene:
    """The scene of the arrays that `read_arrays` has returned for a path; see `read_scene`.

    Raises:
        DataError: they are not a scene.
    """
    with _errors_named(path):
        scene = make_scene(arrays)
    if keep_reserved_label or scene.segment is None or scene.reserved_label is None:
        return scene
    return replace(scene, segment=np.where(scene.segment == scene.reserved_label, IGNORE, scene.segment))


def read_arrays(path: Path, sampling: Sampling = EVERY_POINT) -> SceneArrays:
    """Read the arrays of a scene as they are in the file, unchecked.

    Raises:
        DataError: as `read_scene`.
    """
    with _errors_named(path):
        return _arrays(path, sampling)


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn the exceptions of readers into a DataError that names the file."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers that are refused or left out
            yield
    except RefusedPickleError as error:
        raise DataError(
            f"{printable(str(path))} was not loaded, and nothing in it was run: it {error}",
            hint="save the scene as a dict of plain NumPy arrays or PyTorch tensors, or do not trust the file",
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except MissingPackageError as error:
        raise DataError(f"{printable(str(path))}: {error}") from error
    except (ValueError, MemoryError) as error:
        raise _invalid(path, str(error) or "does not fit into free memory") from error


def _arrays(path: Path, sampling: Sampling) -> SceneArrays:
    is_folder = path.is_dir()
    suffix = "" if is_folder else path.suffix.lower()
    read = read_folder if is_folder else READERS.get(suffix)
    if read is None:
        raise ValueError(f"is of an unknown format; scenes are {', '.join(READERS)} or folders of .npy")
    _scene_files(path)
    read_blocks = folder_blocks if is_folder else BLOCK_READERS.get(suffix)
    if sampling.grid_size is not None and read_blocks is not None:
        arrays = thinned(read_blocks(path), sampling.grid_size)
    else:
        arrays = read_mesh(path, sampling.mesh_points) if suffix in MESH_SUFFIXES else read(path)
        if sampling.grid_size is not None:
            arrays = thinned(slices(arrays), sampling.grid_size)
    # Only all points together tell whether a program has classified them.
    return without_unset_classes(arrays) if suffix in (".las", ".laz") else arrays


def scene_digest(path: Path) -> str:
    """SHA-256 of a scene's content: of its file, or of those files of a folder that make up the scene.

    Raises:
        DataError: a file cannot be read, is empty or too large.
    """
    digest = hashlib.sha256()
    try:
        for name, file in _scene_files(path).items():
            digest.update(f"{name}:{file.stat().st_size}:".encode() if name else b"")
            with file.open("rb") as opened:
                while chunk := opened.read(1 << 20):
                    digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise _invalid(path, str(error)) from error
    return digest.hexdigest()


def _scene_files(path: Path) -> dict[str, Path]:
    """The files of a scene, by the names of their arrays ("" for a single file), each a regular file of usual size."""
    files = folder_files(path) if path.is_dir() else {"": path}
    for name, file in files.items():
        if problem := _problem(file):
            raise ValueError(f"its file {file.name} {problem}" if name else problem)
    return files


def _problem(file: Path) -> str:
    if not file.is_file():
        if file.exists():  # opening a pipe would block forever
            return "is not a regular file"
        if file.is_symlink():
            return "is a link to a missing file"
    size = file.stat().st_size
    if size == 0:
        return "is an empty file"
    limit = MAX_BLOCK_BYTES if file.suffix.lower() in BLOCK_READERS else MAX_BYTES
    return f"has {size:,} bytes; the limit is {limit:,}" if size > limit else ""


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{printable(str(path))} cannot be opened: {why(error)}", hint=_HINT)


def _invalid(path: Path, reason: str) -> DataError:
    return DataError(f"{printable(str(path))}: {printable(reason)}", hint=_HINT)
