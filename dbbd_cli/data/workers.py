"""Worker processes of a `DataLoader`, reliable enough to train for days.

`Workers` is used by the main process: it starts and ends them, and reports a dead or hanging one as an error where a
batch is waited for. `start_worker` runs in each of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.limits import TOO_MANY_FILES, open_files_limit
from dbbd_cli.core.signals import STOP_SIGNALS, exit_reason
from dbbd_cli.core.temporary import hold_folder, release, remove_strays, temporary_path
from dbbd_cli.data.handover import SHARED_MEMORY, Handover, shared_folder, too_many_files
from dbbd_cli.data.running_time import LateError, alarm, can_alarm

_END = object()


class Workers:
    """The worker processes of one loader.

    Args:
        timeout: seconds to wait for a batch before giving up.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._processes: list[BaseProcess] = []
        self._handover: Handover | None = None

    def handover(self, num_workers: int, num_batches: int, in_use: int) -> Handover:
        """Return the collate function with which workers pass batches to this process."""
        parent = shared_folder()
        remove_strays(parent)
        self._handover = Handover(temporary_path(parent / "dbbd"), num_workers, num_batches, in_use)
        return self._handover

    @property
    def loader_timeout(self) -> float:
        """The timeout to be enforced by the loader itself; 0 if `batches` enforces it."""
        return 0 if can_alarm() else self.timeout

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Yield the batches of a loader.

        Raises:
            DataError: a worker has died or does not deliver in time; raised only while a batch is waited for.
        """
        if self._handover is not None and not self._processes:
            self._prepare(self._handover)
        iterator: Iterator[Any] | None = None
        while True:
            try:
                if not self._processes:
                    iterator = self._start(loader) if iterator is None else iterator
                with _deaths.raised(), alarm(self.timeout if self._handover is not None else 0):
                    # Within the time limit: `iter` waits for workers that are already running.
                    iterator = iter(loader) if iterator is None else iterator
                    batch = next(iterator, _END)
            except (RuntimeError, OSError, EOFError) as error:
                raise self._explained(error) from error
            if batch is _END:
                return
            if isinstance(batch, OSError) and batch.errno in TOO_MANY_FILES:
                raise too_many_files(batch)
            yield batch

    def make(self, batch: Callable[[], Any]) -> Any:
        """Make a batch in this process, within the same time limit.

        Raises:
            DataError: it takes longer.
        """
        try:
            with alarm(self.timeout):
                return batch()
        except LateError as error:
            raise self._explained(error) from error

    def close(self) -> None:
        """End the workers, even if they hang, and remove their files."""
        if self._handover is not None:
            _end(self._processes, self._handover.folder, os.getpid())

    def _prepare(self, handover: Handover) -> None:
        """Create what the workers need.

        Raises:
            DataError: it cannot be created.
        """
        # The queues of multiprocessing need shared memory too: without it, no worker could be started.
        if sys.platform == "linux" and handover.folder.parent != SHARED_MEMORY:
            raise DataError(
                f"data workers need shared memory, and {SHARED_MEMORY} "
                f"{'is not writable' if SHARED_MEMORY.is_dir() else 'is missing'}",
                hint=f"mount a tmpfs at {SHARED_MEMORY}, or set data.num_workers=0 to load in the main process",
            )
        try:
            hold_folder(handover.folder, mode=0o700)
        except OSError as error:
            raise _limit_reached(f"{handover.folder} cannot be created: {error.strerror or error}") from error
        # If `close` is never called, multiprocessing would wait at exit for the workers, which ignore SIGTERM.
        weakref.finalize(self, _end, self._processes, handover.folder, os.getpid())

    def _start(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Start the workers and record them. Later, `active_children` would reap a dead one unnoticed by PyTorch."""
        before = active_children()
        with _signals_deferred():
            try:
                iterator = iter(loader)
            except (OSError, RuntimeError) as error:
                raise _limit_reached(f"data workers cannot be started: {error}") from error
            finally:  # those started before one that failed, too
                self._processes += [process for process in active_children() if process not in before]
            _deaths.replace_handler_of_torch()
        return iterator

    def _explained(self, error: Exception) -> Exception:
        """Return the error to raise in place of one from the loader."""
        text = str(error)
        if isinstance(error, LateError) or ("timed out" in text and "DataLoader" in text):
            return DataError(
                f"no batch arrived within {self.timeout:g} s: a data worker hangs",
                hint="check the disk or network with the data; data.worker_timeout sets the time limit, "
                "and data.num_workers=0 loads in the main process",
            )
        if "Too many open files" in text:
            return _limit_reached("data workers cannot pass on batches: too many open files")
        # A connection error: the worker died while passing on a batch.
        if "DataLoader worker" in text or (self._processes and not isinstance(error, RuntimeError)):
            codes = [process.exitcode for process in self._processes if process.exitcode]
            how = exit_reason(codes[0]) if codes else (text or type(error).__name__).splitlines()[0]
            return DataError(f"a data worker has died: {how}", hint=_likely_cause(how))
        return error


def _end(processes: list[BaseProcess], folder: Path, owner: int) -> None:
    """Kill the workers and remove their folder; does nothing in a process that did not start them."""
    if os.getpid() != owner:
        return
    for process in processes:
        process.kill()  # safe: they only read; and nothing else ends a stopped or hanging process
    for process in processes:
        process.join(10)
    processes.clear()
    shutil.rmtree(folder, ignore_errors=True)
    release(folder)


def _limit_reached(message: str) -> DataError:
    return DataError(
        message,
        hint="lower data.num_workers (0 loads in the main process), or raise the limit on processes (ulimit -u), "
        f"open files ({open_files_limit()}) or shared memory ({SHARED_MEMORY})",
    )


def _likely_cause(how: str) -> str:
    if how == "SIGBUS":
        return f"a cache file was truncated, its disk is failing, or {SHARED_MEMORY} is full"
    return "possibly out of memory: lower data.num_workers; 0 loads in the main process"


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver signals that ask to stop only after the body.

    An exception while workers are being started would leave the loader unusable, and a freshly forked worker would die
    of a signal that arrives before it ignores it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in STOP_SIGNALS
        if callable(signal.getsignal(number))
    }
    # Blocking alone would not do: Python runs handlers here for signals that another thread receives.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in received:
        signal.raise_signal(number)


class _Deaths:
    """Defers PyTorch's error about a dead worker until a batch is waited for.

    PyTorch raises it in a signal handler, which may interrupt a step or a write.
    """

    def __init__(self) -> None:
        self._torch_handler: Callable[[int, FrameType | None], Any] | None = None
        self._waiting = False
        self._missed = False

    def replace_handler_of_torch(self) -> None:
        """Take the place of the handler that PyTorch installs when the first worker starts."""
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle:
            self._torch_handler = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._missed = True  # even if raised now: a callback may swallow the exception
        if self._waiting and self._torch_handler is not None:
            self._torch_handler(number, frame)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise deaths at once during the body, and those missed before at its beginning."""
        self._waiting = True
        try:
            if self._missed and self._torch_handler is not None:
                self._missed = False
                self._torch_handler(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False


_deaths = _Deaths()


def start_worker(_worker: int) -> None:
    """Prepare a worker process; the first thing that runs in it."""
    # Ctrl-C reaches every process of a terminal, and batch systems signal every process of a job. Only the main process
    # decides when to stop, and ends its workers itself.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    if (main := parent_process()) is not None:
        threading.Thread(target=_exit_after, args=(main,), daemon=True).start()
    torch.set_num_threads(1)
    # No traceback when the main process goes away and closes the connection: it reports the reason itself.
    sys.excepthook = lambda kind, error, trace: (
        None if issubclass(kind, (ConnectionError, EOFError)) else sys.__excepthook__(kind, error, trace)
    )


def _exit_after(main: BaseProcess) -> None:
    """End this process at once, however the main process ends: it may hold the lock of the run folder."""
    main.join()
    os._exit(1)
