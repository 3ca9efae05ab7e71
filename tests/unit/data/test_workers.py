"""Workers end with their loader; one that dies, hangs or cannot start is an error where a batch is waited for."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.signals import STOP_SIGNALS
from dbbd_cli.data.loader import BatchLoader, Key

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inspects processes as Linux has them")


class Numbers:
    """A dataset of the keys themselves."""

    def __len__(self) -> int:
        return 10

    def __getitems__(self, keys: list[Key]) -> np.ndarray:
        return np.asarray(keys)


class Slow(Numbers):
    """A dataset whose last batch never arrives."""

    def __getitems__(self, keys: list[Key]) -> np.ndarray:
        if len(keys) == 2:
            time.sleep(600)
        return super().__getitems__(keys)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def loader_of(dataset: Numbers, timeout: float = 600) -> BatchLoader:
    return BatchLoader(dataset, batch_size=4, shuffle=False, seed=5, num_workers=2, worker_timeout=timeout)


def test_closing_a_loader_ends_its_workers() -> None:
    before = children()
    loader = loader_of(Numbers())
    for _ in range(2):
        assert len(list(loader.batches(1))) == 3
        assert len(children() - before) == min(2, len(os.sched_getaffinity(0)))
        loader.close()
        assert children() <= before
        loader = loader_of(Numbers())


def test_a_worker_that_hangs_is_an_error_after_the_timeout() -> None:
    loader = loader_of(Slow(), timeout=1)
    with pytest.raises(DataError, match="no batch arrived within 1 s"):
        list(loader.batches(1))
    loader.close()


@pytest.mark.parametrize("error", [OSError(errno.EAGAIN, "no process is left"), RuntimeError("can't start new thread")])
def test_a_worker_that_cannot_be_started_is_an_error_and_the_others_are_ended(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one worker per processor")
    before = children()
    start, started = BaseProcess.start, []

    def fail_the_second_time(process: BaseProcess) -> None:
        if started:
            raise error
        start(process)
        started.append(process.pid)

    monkeypatch.setattr(BaseProcess, "start", fail_the_second_time)
    loader = loader_of(Numbers())
    with pytest.raises(DataError, match="data workers cannot be started") as caught:
        next(loader.batches(1))
    assert "ulimit -u" in caught.value.hint
    assert set(started) <= children()
    loader.close()
    assert children() <= before
    monkeypatch.undo()
    assert len(list(loader.batches(1))) == 3
    loader.close()


@pytest.mark.parametrize(("name", "hint"), [("SIGKILL", "out of memory"), ("SIGBUS", "is full")])
def test_the_death_of_a_worker_is_raised_where_a_batch_is_waited_for(name: str, hint: str) -> None:
    before = children()
    loader = loader_of(Slow())
    batches = loader.batches(1)
    next(batches)
    for pid in children() - before:
        os.kill(pid, signal.Signals[name])
    busy = [index for index in range(200_000) if index % 7 == 0]  # a step, which is not interrupted
    assert busy
    with pytest.raises(DataError, match=f"a data worker has died: {name}") as caught:
        list(batches)
    assert hint in caught.value.hint
    loader.close()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_die_with_the_main_process_whatever_the_start_method(method: str) -> None:
    code = f"""
import multiprocessing, os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from unit.data.test_workers import BatchLoader, Numbers
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    loader = BatchLoader(Numbers(), batch_size=4, shuffle=False, seed=5, num_workers=2, worker_timeout=60)
    assert len(list(loader.batches(1))) == 3
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    workers = [int(pid) for pid in ended.stdout.split()]
    assert workers
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlived the main process"
        time.sleep(0.05)


def test_workers_ignore_signals_that_ask_to_stop() -> None:
    before = children()
    loader = loader_of(Numbers())
    list(loader.batches(1))  # now all have started
    batches = loader.batches(1)
    next(batches)
    for pid in children() - before:
        for number in STOP_SIGNALS:
            os.kill(pid, number)
    assert len(list(batches)) == 2
    assert len(list(loader.batches(2))) == 3
    loader.close()
