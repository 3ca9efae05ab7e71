"""Scenes as text: a point in each line, its coordinates and its label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays


def read_xyzl(path: Path) -> SceneArrays:
    """Read lines of `x y z label`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a table of numbers; the message completes "the file …".
    """
    table = np.loadtxt(path, ndmin=2, max_rows=MAX_POINTS + 1)
    if table.shape[1] != 4:
        raise ValueError(f"has {table.shape[1]} numbers per line, not x, y, z and a label")
    return SceneArrays(coord=table[:, :3], segment=table[:, 3])
