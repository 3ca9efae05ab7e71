"""The signals that ask a program to end, as an exception that lets it clean up."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""Ctrl-C, the end of a job, the warning before it that batch systems send (SLURM: --signal=USR1), a closed terminal."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end, where nothing more can be saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class WaitEndedError(Exception):
    """A signal asked for a stop while something was waited for."""


def exit_reason(code: int) -> str:
    """How a process ended, from the exit code that `subprocess` and `multiprocessing` report, such as "SIGKILL"."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def signal_of(error: BaseException) -> int:
    """The number of the signal behind a `KeyboardInterrupt`."""
    return error.number if isinstance(error, Interrupted) else signal.SIGINT


def raise_on_signals() -> None:
    """Makes every one of the signals raise an exception, so that what is being written is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may handle signals
    for number in STOP_SIGNALS:
        # What is ignored, as under nohup, stays ignored. Python's own exception for Ctrl-C will not do: where it goes
        # through an `exec`, as in the making of a named tuple, Python kills itself at the end of the program.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    show = sys.unraisablehook
    # Where a library can hand on no exception, Python would print a traceback.
    sys.unraisablehook = lambda report: (
        None if isinstance(report.exc_value, (Interrupted, WaitEndedError)) else show(report)
    )


def received() -> int | None:
    """The signal that has been answered with an exception; libraries may have put one of theirs in its place."""
    return _received[0] if _received else None


def ignore_signals() -> None:
    """Ends what `raise_on_signals` began: the program is over, and says its last words."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    raise Interrupted(number)


_received: list[int] = []
