"""How long work tells of itself: an interface that any layer may call and the command line draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Phase(Protocol):
    """One stretch of counted work, such as the batches of an epoch."""

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Counts `count` units of work and `samples` samples; `values` are shown beside the bar."""
        ...


class Progress(Protocol):
    """What an engine or a reader needs in order to be followed by a person."""

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase of `total` units, `done` of which are done; `sample_unit` is what samples are called."""
        ...

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Shows a short table of names and values."""
        ...

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        ...

    def warn(self, text: str) -> None:
        """Prints a warning that stays."""
        ...


class _SilentPhase:
    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        pass


class Silent:
    """Shows nothing: the default when the services are called from Python."""

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Counts nothing."""
        yield _SilentPhase()

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Shows nothing."""

    def line(self, text: str) -> None:
        """Shows nothing."""

    def warn(self, text: str) -> None:
        """Shows nothing."""
