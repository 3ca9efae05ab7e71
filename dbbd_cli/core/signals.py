"""Asking a run to stop at a moment of its own choice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dbbd_cli.core.compat import start_thread
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.stopping import STOP_SIGNALS, WaitEndedError


class StopRequest:
    """Whether a signal has asked the run to stop, and which."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

        self._waiting = False

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def ask(self, number: int) -> None:
        """Asks for a stop: at once where a batch is waited for, else after the step."""
        self.signal_number = number
        if self._waiting:
            self._waiting = False
            raise WaitEndedError

    def interruptible(self, batches: Iterator[Any], may_end: Callable[[], bool]) -> Iterator[Any]:
        """The batches, up to a stop that is asked for while one is waited for.

        Args:
            batches: takes its time.
            may_end: whether the run can be saved as it is; if not, the stop comes after the step as always.
        """
        while True:
            try:
                self._waiting = may_end()
                batch = next(batches, None)
                self._waiting = False
            except WaitEndedError:
                return
            finally:
                self._waiting = False
            if batch is None:
                return
            yield batch


@contextmanager
def stop_on_signals(progress: Progress) -> Iterator[StopRequest]:
    """While it lasts, the signals of `STOP_SIGNALS` ask for a stop after the step; a second Ctrl-C stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals
        return
    process = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            return  # a worker process that has just been forked: the main process decides
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request:
            # From a thread: the main one may be in the middle of writing to the same stream.
            start_thread(_tell, progress, number)
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


def _tell(progress: Progress, number: int) -> None:
    again = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
    with suppress(Exception):  # the terminal may be gone
        progress.line(f"{signal.Signals(number).name}: stopping after this step and saving.{again}")
