"""Time limits that count only the time in which this process runs."""

from __future__ import annotations

import time


class RunningTime:
    """Adds up time in short ticks. A much longer gap means that the process was stopped (Ctrl-Z) or the machine slept.

    Args:
        limit: seconds; `over` tells whether they have passed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.tick = min(1.0, limit / 10)
        self._spent = 0.0
        self._last = time.monotonic()

    def over(self) -> bool:
        """Whether the limit has passed; to be called about every `tick` seconds."""
        now = time.monotonic()
        self._spent += min(now - self._last, 2 * self.tick)
        self._last = now
        return self._spent >= self.limit
