"""Asking a run to stop at a moment of its own choice."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dbbd_cli.progress import Progress
from dbbd_cli.stopping import STOP_SIGNALS


class StopRequest:
    """Whether a signal has asked the run to stop, and which."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


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
        first = not request
        request.signal_number = number
        if first:
            # From a thread: the main one may be in the middle of writing to the same stream.
            _thread.start_new_thread(_tell, (progress, number))

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
