"""What a task gives the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from dbbd_cli.data.loader import BatchLoader


class Task(Protocol):
    """One kind of training: data and network joined.

    The engine needs nothing else, and knows no task by name.
    """

    @property
    def module(self) -> nn.Module:
        """Owns network and loss; called with what `to_device` returns, it returns a `StepOutput`."""
        ...

    @property
    def loaders(self) -> Mapping[str, BatchLoader]:
        """A loader for each split that was asked for; `train` is shuffled."""
        ...

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is best; see `metrics.higher_is_better`."""
        ...

    @property
    def noun(self) -> str:
        """What samples are called, such as images."""
        ...

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that are shown while training; the others are only logged."""
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
    def saves_memory(self) -> str:
        """What to do where memory is short."""
        ...

    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[Any, ...]:
        """Moves a batch and prepares it there. What is random there depends on seed, epoch and sample alone."""
        ...

    def summarise(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Turns sums over samples (`loss` and the metrics of `StepOutput`) into what is logged."""
        ...

    def warning(self, metrics: Mapping[str, float]) -> str:
        """What such metrics say is going wrong, and what to do, in words; empty where nothing is."""
        ...

    def names(self, batch: Any, split: str) -> list[str]:
        """The files or scenes of a batch, for errors."""
        ...
