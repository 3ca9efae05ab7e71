"""Progress as plain lines: for files, pipes, logs, and whoever prefers them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

import typer

from dbbd_cli.cli.terminal.counter import Clock, Counter
from dbbd_cli.cli.terminal.streams import best_effort, colored, columns
from dbbd_cli.cli.terminal.text import clean, clean_line, pairs, wrapped
from dbbd_cli.core.progress import Phase

SECONDS_BETWEEN_LINES = 10.0
"""The least time between two progress lines, whatever phases they are of."""


class LineProgress:
    """Writes facts, messages, and at most every so many seconds a line that tells how far the work is.

    A phase that is over sooner leaves no progress line. There are no control codes, but for the color of the word
    "Warning" on a terminal.

    Args:
        stream: where to.
        seconds: least time between two progress lines; `math.inf`: none at all.
        only_warnings: leaves out everything but warnings.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        seconds: float = SECONDS_BETWEEN_LINES,
        only_warnings: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self._stream = stream
        self._seconds = math.inf if only_warnings else seconds
        self._only_warnings = only_warnings
        self._clock = clock
        self._last_line = -math.inf

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Opens a phase of `total` units of which `done` are already behind it."""
        yield _LinePhase(self, Counter(title, total, unit, done, self._clock(), sample_unit))

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Writes the title, and below it names and values in two columns."""
        if not self._only_warnings:
            lines = [name + value for name, value in pairs(rows, columns(self._stream))]
            self._write("\n".join([clean_line(title), *lines]))

    def line(self, text: str) -> None:
        """Writes the text."""
        if not self._only_warnings:
            self._write("\n".join(wrapped(clean(text), columns(self._stream))))

    def warn(self, text: str) -> None:
        """Writes the text as a warning."""
        label = "Warning:"
        message = "\n".join(wrapped(f"{label} {clean(text)}", columns(self._stream)))
        shown = typer.style(label, fg="yellow", bold=True) if colored(self._stream) else label
        self._write(shown + message.removeprefix(label))

    def show(self, counter: Counter) -> None:
        """Writes how far a phase is, if it is time to."""
        now = self._clock()
        if now - max(counter.started, self._last_line) >= self._seconds:
            self._last_line = now
            self._write(counter.plain(now))

    def _write(self, text: str) -> None:
        with best_effort(self._stream):
            self._stream.write(text + "\n")
            self._stream.flush()


class _LinePhase:
    def __init__(self, progress: LineProgress, counter: Counter) -> None:
        self._progress = progress
        self._counter = counter

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Counts, and writes a line if it is time to."""
        self._counter.add(count, samples, values)
        self._progress.show(self._counter)
