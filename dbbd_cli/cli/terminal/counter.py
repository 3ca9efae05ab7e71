"""A phase of counted work, and how it is told: as a bar of a given width, or as a plain line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dbbd_cli.cli.terminal.text import clean_line, clock_time, metric, metric_name

Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""

_WIDEST_BAR = 40
_NARROWEST_BAR = 8
_BAR_COMES_FIRST = 60
"""Width of the terminal from which on there is always a bar."""


class Bar(NamedTuple):
    """One line that shows a phase: title, a bar of so many filled cells, numbers."""

    title: str
    filled: int
    cells: int
    right: str


class Counter:
    """How far a phase has come. Its rate and its time left count only what was done since it was opened."""

    def __init__(self, title: str, total: int, unit: str, done: int, now: float, sample_unit: str = "samples") -> None:
        self.title = clean_line(title)
        self.total = total
        self.unit = unit
        self.sample_unit = sample_unit
        self.done = done
        self.values: dict[str, float] = {}
        self.started = now
        self._done_before = done
        self._samples = 0

    def add(self, count: int, samples: int, values: dict[str, float]) -> None:
        """Counts units and samples; the values replace those of the same name."""
        self.done += count
        self._samples += samples
        self.values.update(values)

    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    def rate(self, now: float) -> str:
        """Samples per second, such as `15.8`; empty where no samples are counted."""
        seconds = now - self.started
        if not self._samples or seconds <= 0:
            return ""
        rate = self._samples / seconds
        return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"

    def left(self, now: float) -> str:
        """Time left, such as `1:23 left`; empty before the first unit is done."""
        own = self.done - self._done_before
        if own <= 0 or self.done > self.total:
            return ""
        return f"{clock_time((now - self.started) / own * (self.total - self.done))} left"

    def _parts(self, now: float) -> tuple[str, list[str], str, str]:
        values = [f"{metric_name(name)} {metric(name, value)}" for name, value in self.values.items()]
        rate = self.rate(now)
        return f"{self.done:,}/{self.total:,}", values, f"{rate} {self.sample_unit}/s" if rate else "", self.left(now)

    def plain(self, now: float) -> str:
        """The state as a line of any length."""
        count, values, rate, left = self._parts(now)
        return f"{self.title}: " + ", ".join(part for part in (f"{count} {self.unit}", *values, rate, left) if part)

    def bar(self, now: float, width: int) -> Bar:
        """The state in one line that is at most `width` columns wide.

        Where room is short, texts become shorter first; then the rate goes, then values, then the time left. On
        terminals of some width the bar comes before all of these.
        """
        count, values, rate, left = self._parts(now)
        short = [value.replace("accuracy", "acc") for value in values]
        tellings = (
            (count, *values, rate, left),
            (count, *short, rate.replace(f" {self.sample_unit}", ""), left),
            (count, *short, left),
            (count, *short[:1], left),
            (count, left),
            (count,),
        )
        least = _NARROWEST_BAR if width >= _BAR_COMES_FIRST else -2
        for parts in tellings:
            right = "  ".join(part for part in parts if part)
            room = width - len(self.title) - len(right) - 4
            if room >= least:
                cells = min(room, _WIDEST_BAR) if room >= _NARROWEST_BAR else 0
                return Bar(self.title, round(cells * self.fraction()), cells, right)
        return Bar(self.title[: max(0, width - len(count) - 2)], 0, 0, count[:width])
