"""Progress bars that are redrawn in place, for terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from dbbd_cli.cli.terminal.streams import best_effort, colored, drop_unwritten
from dbbd_cli.cli.terminal.text import clean, clean_line, metric, metric_name, pairs, per_second, time_left, wrapped
from dbbd_cli.core.progress import Phase

_SECONDS_BETWEEN_FRAMES = 0.1
_SPEED_PERIOD = 600.0
"""Seconds over which speed is averaged: long enough for batches that take minutes."""
_NARROWEST_BAR = 6
_RIGHT_MARGIN = 3
"""Columns left free for the ^C that the terminal shows: on a full line it would wrap, and a stale bar would remain."""


class _TextColumn(ProgressColumn):
    """Text about a phase, two columns apart from what stands before it; nothing if the text is empty."""

    def __init__(self, write: Callable[[Task], str], style: str = "") -> None:
        super().__init__(Column(no_wrap=True))
        self._write = write
        self._style = style

    def render(self, task: Task) -> Text:
        text = self._write(task)
        return Text(text and f" {text}", style=self._style)


def _metrics(task: Task, most: int | None = None) -> str:
    values = list(task.fields["values"].items())[:most]
    return "  ".join(f"{metric_name(name)} {metric(name, value)}" for name, value in values)


def _samples_per_second(task: Task) -> str:
    own = task.completed - task.fields["done"]
    return per_second(task.speed * task.fields["samples"] / own) if task.speed else ""


def _rate(task: Task) -> str:
    rate = _samples_per_second(task)
    return rate and f"{rate} {task.fields['sample_unit']}/s"


def _short_rate(task: Task) -> str:
    rate = _samples_per_second(task)
    return rate and f"{rate}/s"


def _left(task: Task) -> str:
    remaining = task.time_remaining
    return time_left(remaining) if remaining is not None and remaining >= 0 else ""


class _TitleColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, style="bold", no_wrap=True)


_TITLE = _TitleColumn(Column(no_wrap=True))
_BAR = BarColumn(
    None, complete_style="cyan", finished_style="cyan", table_column=Column(min_width=_NARROWEST_BAR, max_width=40)
)
_COUNT = _TextColumn(lambda task: f"{int(task.completed):,}/{int(task.total or 0):,}")
_METRICS = _TextColumn(_metrics)
_SHORT_METRICS = _TextColumn(lambda task: _metrics(task).replace("accuracy", "acc"))
_FIRST_METRIC = _TextColumn(lambda task: _metrics(task, 1).replace("accuracy", "acc"))
_RATE = _TextColumn(_rate, "dim")
_SHORT_RATE = _TextColumn(_short_rate, "dim")
_LEFT = _TextColumn(_left)

_LAYOUTS: tuple[tuple[ProgressColumn, ...], ...] = (
    (_TITLE, _BAR, _COUNT, _METRICS, _RATE, _LEFT),
    (_TITLE, _BAR, _COUNT, _SHORT_METRICS, _SHORT_RATE, _LEFT),
    (_TITLE, _BAR, _COUNT, _SHORT_METRICS, _LEFT),
    (_TITLE, _BAR, _COUNT, _FIRST_METRIC, _LEFT),
    (_TITLE, _COUNT, _FIRST_METRIC, _LEFT),
    (_TITLE, _COUNT, _LEFT),
    (_TITLE, _COUNT),
)
"""From wide to narrow; the first that fits the terminal is used, so that no number is ever cut off."""


class _Bars(RichProgress):
    """The bars of the open phases."""

    def __init__(self, console: Console, stream: TextIO, clock: Callable[[], float]) -> None:
        self._terminal = console
        self._stream = stream
        self._last_frame = 0.0
        super().__init__(
            console=console,
            auto_refresh=False,
            transient=True,
            speed_estimate_period=_SPEED_PERIOD,
            get_time=clock,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """The table of bars, in the widest layout that fits."""
        width = self._terminal.width - _RIGHT_MARGIN
        for self.columns in _LAYOUTS:
            if self._least_width() <= width:
                break
        yield Constrain(self.make_tasks_table(self.tasks), width)

    def _least_width(self) -> int:
        widths = [
            _NARROWEST_BAR
            if column is _BAR
            else max((cast("Text", column(task)).cell_len for task in self.tasks), default=0)
            for column in self.columns
            if isinstance(column, ProgressColumn)
        ]
        return sum(widths) + len(widths) - 1

    def refresh(self) -> None:
        """Draw the bars."""
        self._last_frame = self.get_time()
        with best_effort(self._stream):
            super().refresh()

    def refresh_if_due(self) -> None:
        """Draw the bars unless the last time is less than a tenth of a second ago."""
        if self.get_time() - self._last_frame >= _SECONDS_BETWEEN_FRAMES:
            self.refresh()


class _BarPhase:
    def __init__(self, bars: _Bars, title: str, total: int, done: int, sample_unit: str) -> None:
        self._bars = bars
        self._values: dict[str, float] = {}
        self._samples = 0
        self._task = bars.add_task(
            clean_line(title),
            total=total,
            completed=done,
            done=done,
            samples=0,
            values=self._values,
            sample_unit=sample_unit,
        )

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Count units and samples, and draw the bar if it is time to."""
        self._samples += samples
        self._values.update(values)
        self._bars.update(self._task, advance=count, samples=self._samples)
        self._bars.refresh_if_due()

    def close(self) -> None:
        """Remove the bar."""
        self._bars.remove_task(self._task)


class _Console(Console):
    """A console that goes quiet when the terminal is gone, where rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop_unwritten(cast("TextIO", self.file))


class BarProgress:
    """Shows each open phase as a bar; bars vanish when their phase ends, messages stay above them.

    Bars are drawn by `advance` and not by a thread: a process that is forked to load data must not inherit a lock that
    such a thread holds.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._console = _Console(
            file=stream,
            force_terminal=True,
            color_system="auto" if colored(stream) else None,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._bars: _Bars | None = None

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase of `total` units, `done` of which are done; `unit` is not shown."""
        bars = self._bars or _Bars(self._console, self._stream, self._clock)
        phase = _BarPhase(bars, title, total, done, sample_unit)
        is_outermost = self._bars is None
        self._bars = bars
        try:
            if is_outermost:
                with best_effort(self._stream):
                    bars.start()
            yield phase
        finally:
            phase.close()
            if is_outermost:
                self._bars = None
                with best_effort(self._stream):
                    bars.stop()
            else:
                bars.refresh()

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Print the title, and below it names and values in two columns."""
        text = Text(clean_line(title), style="bold")
        for name, value in pairs(rows, self._console.width):
            text.append("\n" + name, style="not bold cyan").append(value, style="not bold")
        self._print(text)

    def line(self, text: str) -> None:
        """Print a line that stays above the bars."""
        self._print(self._wrapped(text))

    def warn(self, text: str) -> None:
        """Print a warning that stays above the bars."""
        message = self._wrapped(f"Warning: {text}")
        message.stylize("bold yellow", 0, len("Warning:"))
        self._print(message)

    def _wrapped(self, text: str) -> Text:
        return Text("\n".join(wrapped(clean(text), self._console.width)))

    def _print(self, text: Text) -> None:
        with best_effort(self._stream):
            self._console.print(text, soft_wrap=True)
