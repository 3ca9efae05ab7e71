"""What the engine trains: the data and the network of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from dbbd_cli.data.loader import BatchLoader


class Workload(Protocol):
    """Data and network of one run. The engine needs nothing else, and knows no task by name."""

    @property
    def module(self) -> nn.Module:
        """Owns network and loss; called with what `to_device` returns, it returns a `StepOutput`."""
        ...

    @property
    def loaders(self) -> Mapping[str, BatchLoader]:
        """A loader for each requested split; `train` is shuffled."""
        ...

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is best; see `metrics.higher_is_better`."""
        ...

    @property
    def sample_unit(self) -> str:
        """The word for samples, such as images."""
        ...

    @property
    def progress_metrics(self) -> tuple[str, ...]:
        """The metrics shown while training; the others are only logged."""
        ...

    @property
    def model_name(self) -> str:
        """The network, in a few words."""
        ...

    @property
    def data_description(self) -> str:
        """Where the samples come from, in words."""
        ...

    @property
    def out_of_memory_hint(self) -> str:
        """What to change if memory runs out."""
        ...

    @property
    def shares_batches(self) -> bool:
        """Whether several processes can compute a batch together, each some of its samples, with the same result."""
        ...

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """Parameters whose names start with a key train at the learning rate times its value; all others at it."""
        ...

    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[Any, ...]:
        """Move a batch to the device and prepare it there. Randomness depends on seed, epoch and sample alone."""
        ...

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Turn sums over samples (`loss` and the metrics of `StepOutput`) into the metrics that are logged."""
        ...

    def warning(self, metrics: Mapping[str, float]) -> str:
        """What these metrics show is going wrong, and what to do; empty if nothing is."""
        ...

    def names(self, batch: Any, split: str) -> list[str]:
        """The name of each sample of a batch, such as its file: for errors, and to count the samples."""
        ...
