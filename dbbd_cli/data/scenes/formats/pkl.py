"""Read scenes stored as pickled dicts of arrays, the format of the first implementation. No pickled code ever runs."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from dbbd_cli.data.scenes.formats.names import PROPERTY, scene_arrays
from dbbd_cli.data.scenes.pickles.arrays import PickleFile, load_plain
from dbbd_cli.data.scenes.scene import COLOR, COORD, MAX_POINTS, NORMAL, SEGMENT, SceneArrays

_WIDTHS = {COORD: (3,), NORMAL: (3,), COLOR: (3, 4), SEGMENT: (), PROPERTY: ()}
"""Numbers per row of each part; empty if a row is a single number."""
_SCALARS = (str, int, float, np.number)
"""Types of values that describe the scene as a whole, such as the `category` of an object."""


def read_pickle(path: Path) -> SceneArrays:
    """Read a scene from a `.pkl` file; see `reader` for what a reader returns and raises.

    Raises:
        RefusedPickleError: the pickle holds something other than plain values, arrays and tensors.
    """
    with path.open("rb") as file, PickleFile(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == b"PK\x03\x04":
            raise ValueError("was written by torch.save, not by pickle; save it with pickle.dump")
        content = load_plain(data)
    if not isinstance(content, dict):
        raise ValueError("does not contain a dict with the arrays of a scene")
    hierarchy = content.get("hierarchy")
    if hierarchy is not None and not isinstance(hierarchy, dict):
        raise ValueError("its hierarchy is not a dict")
    keys: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(key, str) and value is not None and not isinstance(value, _SCALARS):
            keys.setdefault(key.lower(), key)
    arrays = scene_arrays(keys, lambda name, part: _array(keys[name], content[keys[name]], _WIDTHS[part]), hierarchy)
    declared = content.get("num_points")
    if isinstance(declared, (int, np.integer)) and arrays.coord.ndim == 2 and declared != len(arrays.coord):
        raise ValueError(f"declares {declared:,} points, but has {len(arrays.coord):,}")
    return arrays


def _array(name: str, value: object, widths: tuple[int, ...]) -> np.ndarray:
    """The array `name`, which may be a list of numbers, or of rows with one of the `widths`."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, (list, tuple)) or len(value) > MAX_POINTS:
        raise ValueError(f"its {name} is not an array")
    flat = list(value)
    # Checked before anything is copied: a short file may refer to one long row ten million times.
    width = next((width for width in widths if all(_has_width(row, width) for row in value)), None)
    if width:
        flat = [item for row in value for item in row]
    elif widths:
        raise ValueError(f"its {name} is not a list of rows of {' or '.join(map(str, widths))} numbers")
    if not all(isinstance(item, (int, float, np.number)) for item in flat):
        raise ValueError(f"its {name} contains something other than numbers")
    try:
        return np.array(flat).reshape((-1, width) if width else -1)
    except OverflowError as error:
        raise ValueError(f"its {name} contains numbers that are too large") from error


def _has_width(row: object, width: int) -> bool:
    if isinstance(row, np.ndarray):
        return row.shape == (width,)
    return isinstance(row, (list, tuple)) and len(row) == width
