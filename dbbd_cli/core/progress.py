"""The interface through which long-running work reports its progress; the command line draws it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Phase(Protocol):
    """A stretch of counted work, such as the batches of an epoch."""

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Count `count` units of work and `samples` samples; show `values` next to the bar."""
        ...


class Progress(Protocol):
    """Where the engine, the readers and the services report their progress."""

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase of `total` units, `done` of which are complete; `sample_unit` is the plural name of samples."""
        ...

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Show a short table of names and values."""
        ...

    def line(self, text: str) -> None:
        """Print a permanent line."""
        ...

    def warn(self, text: str) -> None:
        """Print a permanent warning."""
        ...


class _SilentPhase:
    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        pass


class Silent:
    """A `Progress` that shows nothing, the default for services called from Python."""

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Yield a phase that counts nothing."""
        yield _SilentPhase()

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Show nothing."""

    def line(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show nothing."""
