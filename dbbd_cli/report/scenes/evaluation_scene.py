"""Reads the scene that an evaluation of DBBD pretraining leaves behind: N points, L levels of the tree."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import CheckpointError

if TYPE_CHECKING:
    from numpy import ndarray

SCENE_FILE = "evaluation_scene.npz"

_MOST_POINTS = 100_000
_MOST_LEVELS = 33
# Meters. Far more than any scan, and far from where float32 loses what a scene consists of.
_FARTHEST = 1e9


class _UnsoundError(Exception):
    """What is wrong with an array."""


def read_evaluation_scene(content: bytes) -> dict[str, ndarray]:
    """The arrays of an `evaluation_scene.npz`.

    Returns:
        `coord` (N, 3) float32, `color` (N, 3) uint8, `region` (L, N) int32 and, where the scene has labels, `segment`
        (N,) int32, -1 for a point whose class is not known.

    Raises:
        CheckpointError: the file is damaged. Nothing in it is ever run.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return _read_arrays(archive)
    except _UnsoundError as error:
        raise _damaged(str(error)) from error
    except Exception as error:  # of any kind: numpy meets a damaged header with tokenize.TokenError, for one
        raise _damaged("not an archive of arrays") from error


def _damaged(problem: str) -> CheckpointError:
    return CheckpointError(f"{SCENE_FILE} is damaged: {problem}", hint="write it again with `dbbd evaluate`")


def _read_arrays(archive: zipfile.ZipFile) -> dict[str, ndarray]:
    """The arrays, sound in themselves and fitting each other. _UnsoundError says what is wrong."""
    import numpy as np

    coord = _read_array(archive, "coord", "float32", (None, 3))
    count = len(coord)
    if count == 0:
        raise _UnsoundError("coord holds no points")
    if not (np.abs(coord) <= _FARTHEST).all():  # which NaN is not
        raise _UnsoundError("coord is not finite, or too far away")
    scene = {
        "coord": coord,
        "color": _read_array(archive, "color", "uint8", (count, 3)),
        "region": _read_array(archive, "region", "int32", (None, count)),
    }
    if not 1 <= len(scene["region"]) <= _MOST_LEVELS:
        raise _UnsoundError(f"region has {len(scene['region'])} levels")
    if "segment.npy" in archive.namelist():
        segment = scene["segment"] = _read_array(archive, "segment", "int32", (count,))
        if segment.min() < -1:
            raise _UnsoundError("segment holds numbers under -1")
    return scene


def _read_array(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int | None, ...]) -> ndarray:
    """One array of the archive; the shape has None where any length will do.

    What its header claims is checked before memory is asked for: an archive of a few bytes could ask for any amount.
    """
    import numpy as np

    member = f"{name}.npy"
    if member not in archive.namelist():
        raise _UnsoundError(f"{name} is missing")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise _UnsoundError(f"{name} is in an unknown format")
        found, _, kind = np.lib.format.read_array_header_1_0(file)
    if kind != np.dtype(dtype):
        raise _UnsoundError(f"{name} is not an array of {dtype}")
    fits = len(found) == len(shape) and all(want in (None, have) for have, want in zip(found, shape, strict=True))
    if not fits or max(found) > _MOST_POINTS:
        raise _UnsoundError(f"{name} has an unfitting shape")
    if found[0] > _MOST_LEVELS and name == "region":
        raise _UnsoundError(f"region has {found[0]} levels")
    with archive.open(member) as file:
        array: ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
