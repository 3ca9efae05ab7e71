"""Batches of prepared images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.images.cache import PreparedImages
from dbbd_cli.data.loader import Key


class ImageBatch(NamedTuple):
    """A batch from the loader.

    Attributes:
        pixels: `(B, C, S, S)`, uint8; C is 1 for grayscale, else 3.
        labels: `(B,)`, int64.
        samples: `(B,)`, int64, index of each image in its split.
        epoch: `()`, int64.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    samples: torch.Tensor
    epoch: torch.Tensor


class ImageDataset:
    """One split of the prepared images, read in batches.

    Args:
        prepared: pixels of all images of the manifest.
        rows: row of each image of this split.
        labels: class of each image of this split.
    """

    def __init__(
        self, prepared: PreparedImages, rows: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray
    ) -> None:
        self._pixels = prepared.open()
        self.rows = np.asarray(rows, dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: list[Key]) -> ImageBatch:
        samples = np.asarray([index for _, index in keys], dtype=np.int64)
        return ImageBatch(
            pixels=torch.from_numpy(self._pixels[self.rows[samples]]),
            labels=torch.from_numpy(self.labels[samples]),
            samples=torch.from_numpy(samples),
            epoch=torch.tensor(keys[0][0]),
        )
