"""Progress bars that are redrawn in place, for terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from dbbd_cli.cli.terminal.messages import Messages
from dbbd_cli.cli.terminal.streams import best_effort, colored, drop_unwritten
from dbbd_cli.cli.terminal.text import clean_line, per_second, time_left
from dbbd_cli.core.metrics import metric_words
from dbbd_cli.core.progress import Phase
from dbbd_cli.report.text import describe_metric

_SECONDS_BETWEEN_FRAMES = 0.1
_SPEED_PERIOD = 600.0
"""Seconds over which speed is averaged: long enough for batches that take minutes."""
_NARROWEST_BAR = 6
_RIGHT_MARGIN = 3
"""Columns left free for the ^C that the terminal shows: on a full line it would wrap, and a stale bar would remain."""


class _Numbers(ProgressColumn):
    """Text about a phase, with an extra space before it unless it is empty."""

    def __init__(self, write: Callable[[Task], str]) -> None:
        super().__init__(Column(no_wrap=True))
        self._write = write

    def render(self, task: Task) -> Text:
        text = self._write(task)
        return Text(text and f" {text}")


def _metrics(task: Task, most: int | None = None) -> str:
    values = list(task.fields["phase"].values.items())[:most]
    return "  ".join(f"{metric_words(name)} {describe_metric(name, value)}" for name, value in values).replace(
        "accuracy", "acc"
    )


def _rate(task: Task, unit: str = "") -> str:
    phase: _BarPhase = task.fields["phase"]
    if not task.speed or not phase.samples:
        return ""
    return f"{per_second(task.speed * phase.samples / (task.completed - phase.done_before))}{unit}/s"


def _left(task: Task) -> str:
    remaining = task.time_remaining
    return time_left(remaining) if remaining is not None and remaining >= 0 else ""


_TITLE = TextColumn("{task.description}", style="bold", markup=False)
_BAR = BarColumn(
    None, complete_style="cyan", finished_style="cyan", table_column=Column(min_width=_NARROWEST_BAR, max_width=40)
)
_COUNT = MofNCompleteColumn(table_column=Column(no_wrap=True))
_METRICS = _Numbers(_metrics)
_FIRST_METRIC = _Numbers(lambda task: _metrics(task, 1))
_RATE = _Numbers(lambda task: _rate(task, f" {task.fields['phase'].sample_unit}"))
_SHORT_RATE = _Numbers(_rate)
_LEFT = _Numbers(_left)
_LAYOUTS: tuple[tuple[ProgressColumn, ...], ...] = (
    (_TITLE, _BAR, _COUNT, _METRICS, _RATE, _LEFT),
    (_TITLE, _BAR, _COUNT, _METRICS, _SHORT_RATE, _LEFT),
    (_TITLE, _BAR, _COUNT, _METRICS, _LEFT),
    (_TITLE, _BAR, _COUNT, _FIRST_METRIC, _LEFT),
    (_TITLE, _COUNT, _FIRST_METRIC, _LEFT),
    (_TITLE, _COUNT, _LEFT),
    (_TITLE, _COUNT),
)
"""From wide to narrow. The first that fits is used, because Rich would cut off numbers."""


class _Bars(RichProgress):
    """The bars of the open phases, drawn only when asked to."""

    def __init__(self, console: Console, stream: TextIO, clock: Callable[[], float]) -> None:
        self._terminal = console
        self._stream = stream
        self._last_frame = 0.0
        super().__init__(
            console=console, auto_refresh=False, transient=True, speed_estimate_period=_SPEED_PERIOD, get_time=clock
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """The table of bars in the widest layout that fits."""
        if not self.tasks:
            return
        width = self._terminal.width - _RIGHT_MARGIN
        self.columns = next((layout for layout in _LAYOUTS if self._least_width(layout) <= width), _LAYOUTS[-1])
        yield Constrain(self.make_tasks_table(self.tasks), width)

    def _least_width(self, layout: tuple[ProgressColumn, ...]) -> int:
        widths = [
            _NARROWEST_BAR if column is _BAR else max(cast("Text", column(task)).cell_len for task in self.tasks)
            for column in layout
        ]
        return sum(widths) + len(widths) - 1

    def refresh(self) -> None:
        """Draw the bars."""
        self._last_frame = self.get_time()
        with best_effort(self._stream):
            super().refresh()

    def refresh_if_due(self) -> None:
        """Draw the bars unless they were drawn less than a tenth of a second ago."""
        if self.get_time() - self._last_frame >= _SECONDS_BETWEEN_FRAMES:
            self.refresh()


class _BarPhase:
    def __init__(self, bars: _Bars, title: str, total: int, done: int, sample_unit: str) -> None:
        self.samples = 0
        self.values: dict[str, float] = {}
        self.done_before = done
        self.sample_unit = sample_unit
        self._bars = bars
        self._task = bars.add_task(clean_line(title), total=total, completed=done, phase=self)

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Count units and samples, and draw the bar if it is time to."""
        self.samples += samples
        self.values.update(values)
        self._bars.update(self._task, advance=count)
        self._bars.refresh_if_due()

    def close(self) -> None:
        """Remove the bar."""
        self._bars.remove_task(self._task)


class _Console(Console):
    """A console that goes quiet when the terminal is gone, where Rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop_unwritten(cast("TextIO", self.file))


class BarProgress(Messages):
    """Shows each open phase as a bar; bars vanish when their phase ends, messages stay above them.

    Bars are drawn by `advance` and not by a thread: a process that is forked to load data must not inherit a lock that
    such a thread holds.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._console = _Console(
            file=stream, force_terminal=True, color_system="auto" if colored(stream) else None, highlight=False
        )
        self._bars: _Bars | None = None

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase of `total` units, `done` of which are done; `unit` is not shown."""
        bars = self._bars = self._bars or _Bars(self._console, self._stream, self._clock)
        phase = _BarPhase(bars, title, total, done, sample_unit)
        try:
            with best_effort(self._stream):
                bars.start()
            yield phase
        finally:
            phase.close()
            if bars.tasks:
                bars.refresh()
            else:
                self._bars = None
                with best_effort(self._stream):
                    bars.stop()

    def _write(self, text: str) -> None:
        with best_effort(self._stream):
            self._console.print(Text.from_ansi(text), soft_wrap=True)
