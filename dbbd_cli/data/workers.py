"""The processes that make batches: they end with the main process, and their deaths are heard where it waits for them.

All that is particular about running a `DataLoader` for days stands here.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        timeout: seconds after which a batch that is waited for is given up.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._processes: list[BaseProcess] = []
        self._handover: Handover | None = None

    def handover(self, num_workers: int, num_batches: int, in_use: int) -> Handover:
        """How the batches of the processes get to this one."""
        parent = shared_folder()
        remove_strays(parent)
        self._handover = Handover(temporary_path(parent / "dbbd"), num_workers, num_batches, in_use)
        return self._handover

    @property
    def loader_timeout(self) -> float:
        """The time limit that the loader itself enforces; 0 if `batches` does."""
        return 0 if can_alarm() else self.timeout

    def batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The batches of a loader.

        Raises:
            DataError: a process has died, or gives no batch in time. Never raised but where a batch is waited for.
        """
        if self._handover is not None and not self._processes:
            self._prepare(self._handover)
        iterator: Iterator[Any] | None = None
        while True:
            try:
                if not self._processes:
                    iterator = self._start(loader) if iterator is None else iterator
                with _deaths.heard(), alarm(self.timeout if self._handover is not None else 0):
                    # The first batch is waited for here too: processes that were there before have to answer.
                    iterator = iter(loader) if iterator is None else iterator
                    batch = next(iterator, _END)
            except (RuntimeError, OSError, EOFError) as error:
                raise self._explained(error) from error
            if batch is _END:
                return
            if isinstance(batch, OSError) and batch.errno in TOO_MANY_FILES:
                raise too_many_files(batch)
            yield batch

    def _prepare(self, handover: Handover) -> None:
        """Creates what the processes need.

        Raises:
            DataError: it cannot be created.
        """
        # The queues of multiprocessing need shared memory too: without it, no process could be started.
        if sys.platform == "linux" and handover.folder.parent != SHARED_MEMORY:
            raise DataError(
                f"there is no shared memory for the processes that load batches: {SHARED_MEMORY} "
                f"{'cannot be written to' if SHARED_MEMORY.is_dir() else 'is missing'}",
                hint=f"mount a tmpfs at {SHARED_MEMORY}, or set data.num_workers=0, which loads in the main process",
            )
        _raise_open_files_limit()
        try:
            hold_folder(handover.folder, mode=0o700)
        except OSError as error:
            raise _no_more(f"{handover.folder} cannot be made: {error.strerror or error}") from error
        # For callers that do not call `close`: multiprocessing would wait for the processes, which ignore SIGTERM.
        weakref.finalize(self, _end, self._processes, handover.folder, os.getpid())

    def _start(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Starts the processes. Looking for them later would bury a dead one, and PyTorch would not hear of it."""
        before = active_children()
        with _signals_held():
            try:
                iterator = iter(loader)
            except (OSError, RuntimeError) as error:
                raise _no_more(f"the processes that load batches cannot be started: {error}") from error
            finally:  # also those that were started before one that could not be
                self._processes += [process for process in active_children() if process not in before]
            _deaths.listen_to_torch()
        return iterator

    def _explained(self, error: Exception) -> Exception:
        text = str(error)
        if isinstance(error, LateError) or ("timed out" in text and "DataLoader" in text):
            return DataError(
                f"no batch came within {self.timeout:g} s: a process that loads batches hangs",
                hint="look at the disk or network that the data lie on; data.worker_timeout sets the time, "
                "and data.num_workers=0 loads in the main process",
            )
        if "Too many open files" in text:
            return _no_more("the processes that load batches cannot hand them over: too many open files")
        # A connection error: the process died while it handed over a batch.
        if "DataLoader worker" in text or (self._processes and not isinstance(error, RuntimeError)):
            codes = [process.exitcode for process in self._processes if process.exitcode]
            how = exit_reason(codes[0]) if codes else (text or type(error).__name__).splitlines()[0]
            return DataError(f"a process that loads batches has died: {how}", hint=_why_it_died(how))
        return error

    def make(self, batch: Callable[[], Any]) -> Any:
        """Makes a batch in this process, within the same time.

        Raises:
            DataError: it takes longer.
        """
        try:
            with alarm(self.timeout):
                return batch()
        except LateError as error:
            raise self._explained(error) from error

    def close(self) -> None:
        """Ends the processes, whatever state they are in, and removes what they leave."""
        if self._handover is not None:
            _end(self._processes, self._handover.folder, os.getpid())


def _end(processes: list[BaseProcess], folder: Path, owner: int) -> None:
    """Ends processes and removes their folder, in the process that started them."""
    if os.getpid() != owner:
        return
    for process in processes:
        process.kill()  # reading is all they do; a process that was stopped or hangs heeds nothing else
    for process in processes:
        process.join(10)
    processes.clear()
    shutil.rmtree(folder, ignore_errors=True)
    release(folder)


def _no_more(message: str) -> DataError:
    return DataError(
        message,
        hint="lower data.num_workers (0 loads in the main process), or raise the limit that was met: of processes "
        f"(ulimit -u), of open files ({open_files_limit()}) or of shared memory ({SHARED_MEMORY})",
    )


def _why_it_died(how: str) -> str:
    if how != "SIGBUS":
        return "it may have been killed for lack of memory: lower data.num_workers; 0 loads in the main process"
    free = ""
    if SHARED_MEMORY.is_dir():
        free = f"; {SHARED_MEMORY} has {shutil.disk_usage(SHARED_MEMORY).free / 1e6:,.1f} MB free"
    return f"a file of the cache was truncated, its disk fails, or shared memory is full{free}"


def _raise_open_files_limit() -> None:
    """Raises the soft limit on open files, as low as 256 on some systems, as far as the hard limit allows."""
    with suppress(ImportError, OSError, ValueError):  # ImportError: Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keeps the signals that ask for a stop until its end.

    PyTorch could not be relied on after an exception in the middle of starting processes, and a process that has just
    been forked would die of a signal that it gets before it ignores them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in STOP_SIGNALS
        if callable(signal.getsignal(number))
    }
    # Python answers here what another thread gets too, so that this alone would not do.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def start_worker(_worker: int) -> None:
    """What each process does first."""
    # Ctrl-C reaches every process of a terminal, and batch systems signal every process of a job: only the main process
    # decides when to stop, and ends its workers itself.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    _die_with_the_main_process()
    torch.set_num_threads(1)
    # A main process that goes away closes the connection over which a batch is handed over; it says itself why.
    sys.excepthook = lambda kind, error, trace: (
        None if issubclass(kind, (ConnectionError, EOFError)) else sys.__excepthook__(kind, error, trace)
    )


def _die_with_the_main_process() -> None:
    main = parent_process()
    if main is None:
        return
    if sys.platform == "linux" and os.getppid() == main.pid:
        import ctypes

        set_death_signal = 1  # prctl: the system kills this process when its parent ends, however it ends
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    # Where the parent is a process that only starts others, and on other systems, this has to do.
    threading.Thread(target=_end_after, args=(main,), daemon=True).start()


def _end_after(main: BaseProcess) -> None:
    main.join()
    os._exit(1)


class _Deaths:
    """Defers what PyTorch raises when a worker dies to the moments when a batch is waited for.

    PyTorch raises from a signal handler, in the middle of whatever the main process does then: a step, or a write.
    """

    def __init__(self) -> None:
        self._raise: Callable[[int, FrameType | None], Any] | None = None
        self._waiting = False
        self._missed = False

    def listen_to_torch(self) -> None:
        """Takes the place of PyTorch's handler, which it sets when the first worker starts."""
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._hear:
            self._raise = handler
            signal.signal(signal.SIGCHLD, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._missed = True  # also where it is raised now: that may be in a callback which swallows it
        if self._waiting and self._raise is not None:
            self._raise(number, frame)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """While it lasts, a death is raised at once; one that was missed is raised at its beginning."""
        self._waiting = True
        try:
            if self._missed and self._raise is not None:
                self._missed = False
                self._raise(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False


_deaths = _Deaths()
