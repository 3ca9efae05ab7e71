"""Progress lines for files and pipes: at most one every 10 s, and nothing but text."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise

import pytest

from dbbd_cli.cli.terminal.progress_lines import LineProgress


class Clock:
    """A clock that the tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gone(io.StringIO):
    """A pipe that its reader has closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_a_line_every_ten_seconds(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    times = []
    with progress.phase("Epoch 1/2 train", 600) as phase:
        for _ in range(600):
            clock.now += 0.1
            before = stream.tell()
            phase.advance(samples=32, loss=0.5)
            if stream.tell() > before:
                times.append(clock.now)
    assert len(times) in (5, 6)
    assert all(later - earlier >= 10 for earlier, later in pairwise(times))


def test_the_line(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    with progress.phase("Epoch 1/2 train", 219) as phase:
        clock.now += 10
        phase.advance(73, samples=2336, loss=0.69314, accuracy=0.5125)
    assert stream.getvalue() == (
        "Epoch 1/2 train: 73/219 batches, loss 0.6931, accuracy 51.25%, 234 samples/s, 0:20 left\n"
    )


def test_short_phases_leave_no_line(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    for _ in range(20):
        with progress.phase("short", 9) as phase:
            for _ in range(9):
                clock.now += 1
                phase.advance()
    assert stream.getvalue() == ""


def test_ten_seconds_hold_across_phases(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    with progress.phase("outer", 10) as outer:
        clock.now += 10
        outer.advance()
        with progress.phase("inner", 10) as inner:
            clock.now += 9
            inner.advance()
            outer.advance()
            assert stream.getvalue().count("\n") == 1
            clock.now += 1
            inner.advance()
            outer.advance()
    assert [line.partition(":")[0] for line in stream.getvalue().splitlines()] == ["outer", "inner"]


def test_a_resumed_phase_counts_only_its_own_work(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    with progress.phase("train", 200, done=100) as phase:
        clock.now += 10
        phase.advance(20, samples=640)
    # 20 units in 10 s, so the remaining 80 take 40 s.
    assert stream.getvalue() == "train: 120/200 batches, 64.0 samples/s, 0:40 left\n"


def test_messages(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    progress.facts("Run", {"Data": "a [b]c[/b]", "Model name": "two\nlines"})
    progress.line("as it is \x1b[31m")
    progress.warn("careful")
    assert stream.getvalue() == (
        "Run\n  Data        a [b]c[/b]\n  Model name  two\n              lines\nas it is \\x1b[31m\nWarning: careful\n"
    )


def test_no_control_codes_from_titles_and_values(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, clock=clock)
    with progress.phase("evil\x1b[2J\r\n\u202etitle", 5) as phase:
        clock.now += 10
        phase.advance(**{"na\x07me": math.nan})
    assert re.fullmatch(r"[\x20-\x7e]+\n", stream.getvalue())


def test_none_shows_messages_but_no_progress(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, seconds=math.inf, clock=clock)
    with progress.phase("train", 5) as phase:
        clock.now += 1000
        phase.advance()
    progress.line("a line")
    assert stream.getvalue() == "a line\n"


def test_quiet_shows_warnings_only(clock: Clock, stream: io.StringIO) -> None:
    progress = LineProgress(stream, only_warnings=True, clock=clock)
    with progress.phase("train", 5) as phase:
        clock.now += 1000
        phase.advance()
    progress.line("a line")
    progress.facts("Run", {"a": "b"})
    progress.warn("careful")
    assert stream.getvalue() == "Warning: careful\n"


def test_a_closed_pipe_does_not_stop_the_work(clock: Clock) -> None:
    progress = LineProgress(Gone(), clock=clock)
    progress.line("a line")
    progress.warn("careful")
    with progress.phase("train", 5) as phase:
        clock.now += 10
        phase.advance()
