"""Progress as bars that are redrawn in place, for terminals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dbbd_cli.cli.terminal.counter import Clock, Counter
from dbbd_cli.cli.terminal.streams import best_effort, colored, drop_unwritten, is_unicode
from dbbd_cli.cli.terminal.text import clean, clean_line, pairs, wrapped
from dbbd_cli.core.progress import Phase

_SECONDS_BETWEEN_FRAMES = 0.1


class _Console(Console):
    """A console that goes quiet when the terminal has gone; rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop_unwritten(cast("TextIO", self.file))


class BarProgress:
    """Shows each open phase as one bar; bars vanish when their phase closes, messages stay above them.

    Drawing happens inside `advance`, at most ten times a second, and never in a thread of its own: a process that
    is forked to load data must not inherit a lock that such a thread holds.
    """

    def __init__(self, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._console = _Console(
            file=stream,
            force_terminal=True,
            color_system="auto" if colored(stream) else None,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._ascii = not is_unicode(stream)
        self._clock = clock
        self._open: list[Counter] = []
        self._live: Live | None = None
        self._last_frame = 0.0

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Opens a phase of `total` units of which `done` are already behind it."""
        counter = Counter(title, total, unit, done, self._clock(), sample_unit)
        self._open.append(counter)
        if self._live is None:
            self._live = Live(console=self._console, get_renderable=self._bars, auto_refresh=False, transient=True)
            with best_effort(self._stream):
                self._live.start()
        self._draw()
        try:
            yield _BarPhase(self, counter)
        finally:
            self._open.remove(counter)
            if self._open:
                self._draw()
            else:
                with best_effort(self._stream):
                    self._live.stop()
                self._live = None

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Shows the title, and below it names and values in two columns."""
        text = Text(clean_line(title), style="bold")
        for name, value in pairs(rows, self._console.width):
            text.append("\n" + name, style="not bold cyan").append(value, style="not bold")
        self._print(text)

    def line(self, text: str) -> None:
        """Prints a line that stays above the bars."""
        self._print(self._wrapped(text))

    def warn(self, text: str) -> None:
        """Prints a warning that stays above the bars."""
        message = self._wrapped(f"Warning: {text}")
        message.stylize("bold yellow", 0, len("Warning:"))
        self._print(message)

    def show(self) -> None:
        """Redraws the bars, if it is time to."""
        if self._clock() - self._last_frame >= _SECONDS_BETWEEN_FRAMES:
            self._draw()

    def _draw(self) -> None:
        self._last_frame = self._clock()
        if self._live is not None:
            with best_effort(self._stream):
                self._live.refresh()

    def _wrapped(self, text: str) -> Text:
        return Text("\n".join(wrapped(clean(text), self._console.width)))

    def _print(self, text: Text) -> None:
        with best_effort(self._stream):
            self._console.print(text, soft_wrap=True)

    def _bars(self) -> Group:
        """One line for each open phase, never as wide as the terminal, so that none wraps."""
        now = self._clock()
        full, empty = ("#", "-") if self._ascii else ("━", "─")
        lines = []
        for counter in self._open:
            bar = counter.bar(now, self._console.width - 1)
            line = Text(f"{bar.title}  ", style="bold", no_wrap=True, overflow="crop")
            if bar.cells:
                line.append(full * bar.filled, style="not bold cyan")
                line.append(empty * (bar.cells - bar.filled) + "  ", style="not bold dim")
            lines.append(line.append(bar.right, style="not bold"))
        return Group(*lines)


class _BarPhase:
    def __init__(self, progress: BarProgress, counter: Counter) -> None:
        self._progress = progress
        self._counter = counter

    def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
        """Counts, and redraws if it is time to."""
        self._counter.add(count, samples, values)
        self._progress.show()
