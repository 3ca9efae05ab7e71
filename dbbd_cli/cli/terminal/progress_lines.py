"""Progress as plain lines, for files, pipes and logs, or by choice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from dbbd_cli.cli.terminal.messages import Messages
from dbbd_cli.cli.terminal.text import clean_line, per_second, time_left
from dbbd_cli.core.metrics import metric_words
from dbbd_cli.core.progress import Phase
from dbbd_cli.report.text import describe_metric

SECONDS_BETWEEN_LINES = 10.0
"""Minimum time between two progress lines, whichever phases they belong to."""


class LineProgress(Messages):
    """Writes messages, and a progress line at most every few seconds; a phase that ends sooner leaves no line.

    Args:
        stream: where to write.
        seconds: minimum time between two progress lines; `math.inf`: write none.
        only_warnings: write nothing but warnings.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        seconds: float = SECONDS_BETWEEN_LINES,
        only_warnings: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, only_warnings=only_warnings)
        self._seconds = math.inf if only_warnings else seconds
        self._clock = clock
        self._last_line = -math.inf

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase of `total` units, `done` of which are done."""
        yield _LinePhase(self, self._clock(), title, total, unit, done, sample_unit)

    def write_if_due(self, phase: _LinePhase) -> None:
        """Write the progress of the phase if the last line is old enough."""
        now = self._clock()
        if now - max(phase.started, self._last_line) >= self._seconds:
            self._last_line = now
            self._write(phase.describe(now))


class _LinePhase:
    def __init__(
        self, progress: LineProgress, now: float, title: str, total: int, unit: str, done: int, sample_unit: str
    ) -> None:
        self.started = now
        self._progress = progress
        self._title = clean_line(title)
        self._total = total
        self._unit = unit
        self._sample_unit = sample_unit
        self._done = self._done_before = done
        self._samples = 0
        self._values: dict[str, float] = {}

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Count units and samples, and write a line if it is time to."""
        self._done += count
        self._samples += samples
        self._values.update(values)
        self._progress.write_if_due(self)

    def describe(self, now: float) -> str:
        """The state of the phase in one line. Speed and time left count only what was done since it was opened."""
        seconds = now - self.started
        own = self._done - self._done_before
        parts = [f"{self._done:,}/{self._total:,} {self._unit}"]
        parts += [f"{metric_words(name)} {describe_metric(name, value)}" for name, value in self._values.items()]
        if self._samples and seconds > 0:
            parts.append(f"{per_second(self._samples / seconds)} {self._sample_unit}/s")
        if own > 0 and self._done <= self._total:
            parts.append(time_left(seconds / own * (self._total - self._done)))
        return f"{self._title}: {', '.join(parts)}"
