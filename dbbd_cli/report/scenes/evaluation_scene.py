"""Read the scene that an evaluation saves for its figures: N points, L levels of the tree."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import CheckpointError

if TYPE_CHECKING:
    from numpy import ndarray

SCENE_FILE = "evaluation_scene.npz"

_MAX_POINTS = 100_000
_MAX_LEVELS = 33
# Meters: far more than any scan, and still precise enough in float32.
_MAX_COORD = 1e9


class _InvalidError(Exception):
    """A problem of an array."""


def read_evaluation_scene(content: bytes) -> dict[str, ndarray]:
    """Read the arrays of an `evaluation_scene.npz`.

    Returns:
        `coord` (N, 3) float32, `color` (N, 3) uint8, `region` (L, N) int32 and, if the scene has labels, `segment`
        (N,) int32, -1 for unlabeled points.

    Raises:
        CheckpointError: the file is damaged. Nothing in it is ever executed.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return _read_arrays(archive)
    except _InvalidError as error:
        raise _damaged(str(error)) from error
    except Exception as error:  # numpy raises all kinds, such as tokenize.TokenError for a damaged header
        raise _damaged("not an archive of arrays") from error


def _damaged(problem: str) -> CheckpointError:
    return CheckpointError(f"{SCENE_FILE} is damaged: {problem}", hint="write it again with `dbbd evaluate`")


def _read_arrays(archive: zipfile.ZipFile) -> dict[str, ndarray]:
    """Read and check the arrays; raise `_InvalidError` at the first problem."""
    import numpy as np

    coord = _read_array(archive, "coord", "float32", (None, 3))
    count = len(coord)
    if count == 0:
        raise _InvalidError("coord holds no points")
    if not (np.abs(coord) <= _MAX_COORD).all():  # False for NaN
        raise _InvalidError("coord is not finite, or too far away")
    scene = {
        "coord": coord,
        "color": _read_array(archive, "color", "uint8", (count, 3)),
        "region": _read_array(archive, "region", "int32", (None, count)),
    }
    if not 1 <= len(scene["region"]) <= _MAX_LEVELS:
        raise _InvalidError(f"region has {len(scene['region'])} levels")
    if "segment.npy" in archive.namelist():
        segment = scene["segment"] = _read_array(archive, "segment", "int32", (count,))
        if segment.min() < -1:
            raise _InvalidError("segment holds numbers below -1")
    return scene


def _read_array(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int | None, ...]) -> ndarray:
    """Read one array; None in `shape` means any length.

    Its header is checked before memory is allocated: an archive of a few bytes could claim any size.
    """
    import numpy as np

    member = f"{name}.npy"
    if member not in archive.namelist():
        raise _InvalidError(f"{name} is missing")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise _InvalidError(f"{name} is in an unknown format")
        found, _, kind = np.lib.format.read_array_header_1_0(file)
    if kind != np.dtype(dtype):
        raise _InvalidError(f"{name} is not an array of {dtype}")
    fits = len(found) == len(shape) and all(want in (None, have) for have, want in zip(found, shape, strict=True))
    if not fits or max(found) > _MAX_POINTS:
        raise _InvalidError(f"{name} has an unexpected shape")
    if found[0] > _MAX_LEVELS and name == "region":
        raise _InvalidError(f"region has {found[0]} levels")
    with archive.open(member) as file:
        array: ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
