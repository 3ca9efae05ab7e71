"""Read the scene that an evaluation saves for its figures: N points, L levels of the tree."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import CheckpointError

if TYPE_CHECKING:
    from numpy import ndarray

SCENE_FILE = "evaluation_scene.npz"

_DTYPES = {"coord": "float32", "color": "uint8", "region": "int32", "segment": "int32", "prediction": "int32"}
_OPTIONAL = ("segment", "prediction")
_MAX_BYTES = 20_000_000
# Meters: far more than any scan, and still precise enough in float32.
_MAX_COORD = 1e9


def read_evaluation_scene(content: bytes) -> dict[str, ndarray]:
    """Read the arrays of an `evaluation_scene.npz`.

    Returns:
        `coord` (N, 3) float32, `color` (N, 3) uint8, `region` (L, N) int32 and, if there are any, the labels `segment`
        (N,) int32, -1 for unlabeled points, and the predicted ones `prediction` (N,) int32.

    Raises:
        CheckpointError: the file is damaged. Nothing in it is ever executed.
    """
    import numpy as np

    try:
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            if sum(member.file_size for member in archive.zip.infolist()) > _MAX_BYTES:
                raise ValueError("too large")
            scene = {name: np.asarray(archive[name]) for name in _DTYPES if name in archive}
    except Exception as error:  # NumPy raises all kinds, such as tokenize.TokenError for a damaged header
        raise _damaged("not an archive of arrays") from error
    if missing := [name for name in _DTYPES if name not in scene and name not in _OPTIONAL]:
        raise _damaged(f"{missing[0]} is missing")
    count = len(scene["coord"]) if scene["coord"].ndim else 0
    levels = len(scene["region"]) if scene["region"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = {"coord": (count, 3), "color": (count, 3), "region": (levels, count)}
    shapes |= dict.fromkeys(_OPTIONAL, (count,))
    for name, array in scene.items():
        if array.dtype != _DTYPES[name] or array.shape != shapes.get(name, (count,)) or not array.size:
            raise _damaged(f"{name} is not an array of {_DTYPES[name]} of the expected shape")
    if not (np.abs(scene["coord"]) <= _MAX_COORD).all():  # False for NaN
        raise _damaged("coord is not finite, or too far away")
    for name in _OPTIONAL:
        if name in scene and scene[name].min() < -1:
            raise _damaged(f"{name} contains numbers below -1")
    return scene


def _damaged(problem: str) -> CheckpointError:
    return CheckpointError(f"{SCENE_FILE} is damaged: {problem}", hint="write it again with `dbbd evaluate`")
