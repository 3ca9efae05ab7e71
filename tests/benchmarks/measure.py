"""How a case is timed, and what it tells."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

WARM_UP = 2
"""Runs of each function that are not counted."""
MIB = 1024**2


class NotHereError(Exception):
    """The case says nothing on this machine; the message says why."""


@dataclass
class Measured:
    """What a case gives.

    Attributes:
        seconds: the median of its runs.
        score: what is compared with the target.
        spread: half of the interquartile range of the score, as a share of it; changes below it are noise.
        reference: what the score is relative to, as it was measured beside the case.
        details: other numbers worth knowing.
        peak_mb: largest memory, of this process up to now where nothing else is said; None: not known.
    """

    seconds: float
    score: float
    spread: float = 0.0
    reference: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = field(default_factory=lambda: peak_mb())


def seconds_of(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(functions: Sequence[Callable[[], float]], repeat: int, warm_up: int = WARM_UP) -> list[list[float]]:
    """Calls each function in turn, again and again: whatever else the machine does meets all of them alike.

    Args:
        functions: each returns a number of its own choice, mostly the seconds that it took.
        repeat: how often each is called, beside the warm-up.
        warm_up: calls of each whose number is dropped.

    Returns:
        The numbers of each function.
    """
    rounds = [[function() for function in functions] for _ in range(warm_up + repeat)]
    return [list(column) for column in zip(*rounds[warm_up:], strict=True)]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Half of the interquartile range, as a share of the median."""
    if len(values) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (upper - lower) / 2 / abs(middle) if middle else 0.0


def peak_mb() -> float:
    """Largest memory of this process so far, in units of 1024² bytes."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource

    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_mb_of_children() -> float | None:
    """Largest memory of any process that was started here and has ended; None where the system does not tell."""
    if os.name != "posix":
        return None
    import resource

    return _megabytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _megabytes(maxrss: int) -> float:
    return maxrss / MIB if sys.platform == "darwin" else maxrss / 1024
