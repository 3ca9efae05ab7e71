"""How the runs of `smoke` are followed, and how one of them is interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dbbd_cli.core.progress import Phase, Progress


class OnlyBars:
    """Passes on bars and warnings alone: the headers and tables of every small run would hide the result."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Passes the phase on."""
        with self.progress.phase(title, total, unit, done, sample_unit) as phase:
            yield phase

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Shows nothing."""

    def line(self, text: str) -> None:
        """Shows nothing."""

    def warn(self, text: str) -> None:
        """Passes the warning on."""
        self.progress.warn(text)


class InterruptingBars(OnlyBars):
    """Presses Ctrl-C after some training batches.

    Attributes:
        left: training batches until then; above 0, Ctrl-C was not pressed here.
    """

    def __init__(self, progress: Progress, batches: int) -> None:
        super().__init__(progress)
        self.left = batches

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Passes the phase on, and counts its batches if they are for training."""
        with super().phase(title, total, unit, done, sample_unit) as phase:
            yield _InterruptingPhase(self, phase) if title.endswith("train") else phase


class _InterruptingPhase:
    def __init__(self, owner: InterruptingBars, phase: Phase) -> None:
        self.owner = owner
        self.phase = phase

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        self.phase.advance(count, samples, **values)
        self.owner.left -= count
        if self.owner.left == 0:
            signal.raise_signal(signal.SIGINT)
