"""A pool of processes that ends with the one that started it, however that ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; they are killed if the body raises, whatever they are doing.

    Args:
        num_workers: number of processes.
    """
    before = active_children()
    # Spawned: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker)
    try:
        yield pool
    except BaseException:
        for process in active_children():
            if process not in before:
                process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of a terminal, but only the parent should respond to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Read when NumPy is imported, with the first job: a pool has a process for each processor already.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if (parent := parent_process()) is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    """End this process as soon as the parent has ended: nobody waits for its results."""
    parent.join()
    os._exit(1)
