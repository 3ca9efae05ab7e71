"""Batches of encoded URLs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.loader import Key
from dbbd_cli.data.urls.encoding import encode_urls


class UrlBatch(NamedTuple):
    """A batch from the loader.

    Attributes:
        codes: `(B, L)`, uint8, encoded URLs, L bytes for the longest of them.
        labels: `(B,)`, int64.
        samples: `(B,)`, int64, index of each URL in its split.
    """

    codes: torch.Tensor
    labels: torch.Tensor
    samples: torch.Tensor


class UrlDataset:
    """One split of the URLs, encoded once and read in batches.

    Args:
        urls: the URLs, cleaned.
        labels: class of each.
    """

    def __init__(self, urls: Sequence[str], labels: Sequence[int]) -> None:
        self.codes = encode_urls(urls)
        self.lengths = (self.codes > 0).sum(axis=1)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: list[Key]) -> UrlBatch:
        samples = np.asarray([index for _, index in keys], dtype=np.int64)
        longest = int(self.lengths[samples].max())
        return UrlBatch(
            codes=torch.from_numpy(self.codes[samples, :longest]),
            labels=torch.from_numpy(self.labels[samples]),
            samples=torch.from_numpy(samples),
        )
