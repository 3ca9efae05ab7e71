"""Changes to a file of pixels `(N, C, S, S)`, uint8, in place: rows or channels that are left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ROWS_AT_ONCE = 64


def keep_rows(path: Path, shape: tuple[int, int, int, int], rows: Sequence[int]) -> None:
    """Moves the given rows to the front of the file and cuts off the rest."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    for target, source in enumerate(rows):
        if target != source:
            pixels[target] = pixels[source]
    pixels.flush()
    del pixels
    os.truncate(path, len(rows) * int(np.prod(shape[1:])))


def is_gray(path: Path, shape: tuple[int, int, int, int]) -> bool:
    """Whether all channels of all images are alike, as those of QR codes are."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    parts = (pixels[first : first + _ROWS_AT_ONCE] for first in range(0, len(pixels), _ROWS_AT_ONCE))
    return all(bool((part == part[:, :1]).all()) for part in parts)


def keep_one_channel(path: Path, shape: tuple[int, int, int, int]) -> None:
    """Moves the first channel of each image to the front of the file and cuts off the rest: a third is read faster."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    kept = pixels.reshape(-1)[: len(pixels) * shape[2] * shape[3]].reshape(len(pixels), shape[2], shape[3])
    for row in range(len(pixels)):
        kept[row] = pixels[row, 0].copy()
    pixels.flush()
    del pixels, kept
    os.truncate(path, shape[0] * shape[2] * shape[3])
