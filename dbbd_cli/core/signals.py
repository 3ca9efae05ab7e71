"""Signals that ask the program to end: outside training, an exception; during training, a request to stop and save."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dbbd_cli.core.compat import start_thread
from dbbd_cli.core.progress import Progress

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""Ctrl-C, the end of a job, the advance warning of batch systems (SLURM: --signal=USR1), and a closed terminal."""


SECONDS_TO_SAVE = 600
"""How long one of several processes may take to end after a signal, before it is killed."""
_PARENT_INTERVAL = 0.5


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end while there was nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequestedError(Exception):
    """A signal asked the run to stop, and the run can be saved as it is."""


class StopRequest:
    """Whether a signal has asked the run to stop, and which one.

    Attributes:
        signal_number: the signal, or None.
        agree: the largest of the numbers with which all processes that train together call it at the same time; None:
            this one trains alone.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.agree: Callable[[int], int] | None = None
        self._waiting = False

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def ask(self, number: int) -> None:
        """Ask for a stop: at once while a batch is awaited, otherwise at the next `check`."""
        self.signal_number = number
        if self._waiting:
            self._waiting = False
            raise StopRequestedError

    def check(self) -> None:
        """Raise `StopRequestedError` if a stop was asked for, in any process.

        Raises:
            DataError: another process has failed.
        """
        if self.agree is None:
            if self:
                raise StopRequestedError
            return
        # A signal that arrives meanwhile counts next time, in all of them.
        if number := self.agree(self.signal_number or 0):
            self.signal_number = number
            raise StopRequestedError

    def interruptible(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; a signal that arrives while one is awaited raises `StopRequestedError` at once.

        If several processes train together, it waits for the next `check`.
        """
        while True:
            try:
                self._waiting = self.agree is None
                batch = next(batches, None)
            finally:
                self._waiting = False
            if batch is None:
                return
            yield batch


@contextmanager
def stop_on_signals(progress: Progress) -> Iterator[StopRequest]:
    """Turn the signals of `STOP_SIGNALS` into a request to stop after the step; a second Ctrl-C stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals
        return
    process = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            return  # a worker process that was just forked: the main process decides
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request:
            # From a thread: the main thread may be in the middle of writing to the same stream.
            start_thread(_announce, progress, number)
        request.ask(number)

    previous = {
        number: signal.signal(number, handle)
        for number in STOP_SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _announce(progress: Progress, number: int) -> None:
    again = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
    with suppress(Exception):  # the terminal may be gone
        progress.line(f"{signal.Signals(number).name}: stopping after this step and saving.{again}")


@contextmanager
def default_signals() -> Iterator[None]:
    """Within the context, a signal ends the process at once: PyTorch waits where no handler of Python can run."""
    previous = {}
    if threading.current_thread() is threading.main_thread():  # only the main thread may handle signals
        previous = {
            number: signal.signal(number, signal.SIG_DFL)
            for number in STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process some time after the one that started it has ended, even if that was killed: as SIGTERM does."""
    start_thread(_end_after, os.getppid())


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def raise_on_signals() -> None:
    """Make each stop signal raise `Interrupted`, so that whatever is being written is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may handle signals
    for number in STOP_SIGNALS:
        # Ignored signals, as under nohup, stay ignored. Python's own exception for Ctrl-C will not do: if it passes
        # through an `exec`, as in the creation of a named tuple, Python kills itself at the end of the program.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    show = sys.unraisablehook
    # Python would print a traceback where a library cannot pass an exception on.
    sys.unraisablehook = lambda report: (
        None if isinstance(report.exc_value, (Interrupted, StopRequestedError)) else show(report)
    )


def ignore_signals() -> None:
    """Undo `raise_on_signals` while the program ends and prints its last message."""
    global _ends
    _ends = True  # whoever restores a handler that it has replaced restores that of `raise_on_signals`
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_IGN)


def received() -> int | None:
    """The first signal that raised an exception; libraries may have replaced it with one of their own."""
    return _received[0] if _received else None


def signal_of(error: BaseException) -> int:
    """The number of the signal behind a `KeyboardInterrupt`."""
    return error.number if isinstance(error, Interrupted) else signal.SIGINT


def exit_reason(code: int) -> str:
    """How a process ended, from the exit code that `subprocess` and `multiprocessing` report, such as "SIGKILL"."""
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if _ends:
        return
    _received.append(number)
    raise Interrupted(number)


_received: list[int] = []
_ends = False
