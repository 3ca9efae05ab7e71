"""Time limits that do not count time during which this process is suspended."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class RunningTime:
    """A stopwatch that ignores suspension: a gap much longer than a tick means the process or machine was suspended.

    Args:
        limit: seconds after which `over` is true.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.tick = min(1.0, limit / 10)
        self._spent = 0.0
        self._last = time.monotonic()

    def over(self) -> bool:
        """Return whether the limit has passed; to be called about every `tick` seconds."""
        now = time.monotonic()
        self._spent += min(now - self._last, 2 * self.tick)
        self._last = now
        return self._spent >= self.limit


class LateError(RuntimeError):
    """The time limit of `alarm` has passed."""


def can_alarm() -> bool:
    """Return whether `alarm` works: on POSIX systems, in the main thread."""
    return hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `LateError` in the body once this process has run for the given number of seconds; never if 0.

    The timeout of `DataLoader` counts time during which the run is suspended (Ctrl-Z), and covers only the wait for the
    first byte of a batch: it would wait forever for the rest.
    """
    if not seconds or not can_alarm():
        yield
        return
    running = RunningTime(seconds)

    def ring(_number: int, _frame: FrameType | None) -> None:
        if running.over():
            raise LateError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, running.tick, running.tick)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
