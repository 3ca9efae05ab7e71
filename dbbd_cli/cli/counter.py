"""A phase of counted work, and how it is told: as a bar of a given width, or as a plain line."""

from __future__ import annotations

from collections.abc import Callable

from dbbd_cli.cli.text import clean_line, clock_time, metric, metric_name

Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""

_WIDEST_BAR = 40
_NARROWEST_BAR = 8


class Counter:
    """How far a phase has come. Its rate and its time left count only what was done since it was opened."""

    def __init__(self, title: str, total: int, unit: str, done: int, now: float) -> None:
        self.title = clean_line(title)
        self.total = total
        self.unit = unit
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

    def _count(self) -> str:
        return f"{self.done:,}/{self.total:,}"

    def _values(self) -> list[str]:
        return [f"{metric_name(name)} {metric(name, value)}" for name, value in self.values.items()]

    def _rate(self, now: float) -> str:
        """Samples per second, where samples are counted."""
        seconds = now - self.started
        if not self._samples or seconds <= 0:
            return ""
        rate = self._samples / seconds
        return f"{rate:.1f} samples/s" if rate < 100 else f"{rate:,.0f} samples/s"

    def _left(self, now: float) -> str:
        own = self.done - self._done_before
        if own <= 0 or self.done > self.total:
            return ""
        return f"{clock_time((now - self.started) / own * (self.total - self.done))} left"

    def plain(self, now: float) -> str:
        """The state as a line of any length, in ASCII but for the title."""
        parts = [f"{self._count()} {self.unit}", *self._values(), self._rate(now), self._left(now)]
        return f"{self.title}: " + ", ".join(part for part in parts if part)

    def bar(self, now: float, width: int, ascii_only: bool) -> tuple[str, str, str, str]:
        """The state in one line that is at most `width` columns wide.

        The title and the count always show. Time left, values and rate show where there is room, in this order of
        importance; the bar takes what they leave.

        Returns:
            The title, the done part of the bar, the rest of the bar, and what stands to the right of it.
        """
        optional = [("left", self._left(now)), *(("value", text) for text in self._values()), ("rate", self._rate(now))]
        room = width - len(self.title) - len(self._count()) - 2
        chosen: list[tuple[str, str]] = []
        for kind, text in optional:
            if text and len(text) + 2 <= room:
                chosen.append((kind, text))
                room -= len(text) + 2
        # On the line they stand in reading order: values, rate, time left.
        chosen.sort(key=lambda part: ("value", "rate", "left").index(part[0]))
        right = "  ".join([self._count(), *(text for _, text in chosen)])
        cells = min(room - 2, _WIDEST_BAR)
        if cells < _NARROWEST_BAR:
            return self.title[: max(0, width - len(right) - 2)], "", "", right[:width]
        full = round(cells * self.fraction())
        done, rest = ("#", "-") if ascii_only else ("━", "─")
        return self.title, done * full, rest * (cells - full), right
