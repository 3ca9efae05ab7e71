"""Timing of a case, and its result."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

WARM_UP = 2
"""Runs of each function before the measurement."""
MIB = 1024**2


class UnsupportedError(Exception):
    """The case cannot be measured on this machine; the message says why."""


@dataclass
class Measured:
    """The result of a case.

    Attributes:
        seconds: median time of a run.
        score: the value to compare with the target.
        spread: half of the interquartile range of the score, relative to the score; smaller changes are noise.
        reference: what the score is relative to, measured alternately with the case.
        details: other useful numbers.
        peak_mb: peak memory, by default of this process so far; None: unknown.
    """

    seconds: float
    score: float
    spread: float = 0.0
    reference: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = field(default_factory=lambda: peak_mb())


def seconds_of(function: Callable[[], object]) -> float:
    """Time a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternately(functions: Sequence[Callable[[], float]], repeat: int, warm_up: int = WARM_UP) -> list[list[float]]:
    """Call the functions alternately, so that other load on the machine affects all of them equally.

    Args:
        functions: each returns a number, usually the seconds that it took.
        repeat: calls of each, not counting the warm-up.
        warm_up: calls of each whose results are dropped.

    Returns:
        The numbers of each function.
    """
    rounds = [[function() for function in functions] for _ in range(warm_up + repeat)]
    return [list(column) for column in zip(*rounds[warm_up:], strict=True)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Return half of the interquartile range, relative to the median."""
    if len(values) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / 2 / abs(middle) if middle else 0.0


def peak_mb() -> float:
    """Return the peak memory of this process, in units of 1024² bytes."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource

    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_mb_of_children() -> float | None:
    """Return the peak memory of any finished child process; None if the system does not report it."""
    if os.name != "posix":
        return None
    import resource

    return _megabytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _megabytes(maxrss: int) -> float:
    return maxrss / MIB if sys.platform == "darwin" else maxrss / 1024
