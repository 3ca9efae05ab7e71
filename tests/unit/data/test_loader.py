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
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.signals import STOP_SIGNALS
from dbbd_cli.data.loader import BatchLoader, Key


class Numbers:
    """Batches of (epoch, index), to see what is asked for."""

    def __len__(self) -> int:
        return 10

    def __getitems__(self, keys: list[Key]) -> np.ndarray:
        return np.asarray(keys)


def loader(shuffle: bool = True, workers: int = 0) -> BatchLoader:
    return BatchLoader(Numbers(), batch_size=4, shuffle=shuffle, seed=5, num_workers=workers)


def indices(batches: list[np.ndarray]) -> list[int]:
    return [int(index) for batch in batches for index in batch[:, 1]]


def test_every_sample_once_and_the_last_batch_smaller() -> None:
    batches = list(loader().batches(1))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(indices(batches)) == list(range(10))
    assert len(loader()) == 3


def test_order_changes_with_the_epoch_only_when_shuffled() -> None:
    assert indices(list(loader().batches(1))) != indices(list(loader().batches(2)))
    assert indices(list(loader(shuffle=False).batches(1))) == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_entered_anywhere(workers: int) -> None:
    whole = list(loader().batches(3))
    entered = loader(workers=workers)
    for start in (1, 3, 2):  # again and again, with the same workers
        rest = list(entered.batches(3, start=start))
        assert len(rest) == 3 - start
        for one, two in zip(whole[start:], rest, strict=True):
            assert np.array_equal(one, two)


def test_loading_leaves_the_global_random_stream_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader().batches(1))
    assert torch.equal(torch.rand(1), expected)


class Slow(Numbers):
    """Makes the last batch never."""

    def __getitems__(self, keys: list[Key]) -> np.ndarray:
        if len(keys) == 2:
            time.sleep(600)
        return super().__getitems__(keys)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux has them")
class TestWorkers:
    def make(self, dataset: Numbers, timeout: float = 600) -> BatchLoader:
        return BatchLoader(dataset, batch_size=4, shuffle=False, seed=5, num_workers=2, worker_timeout=timeout)

    def test_closing_ends_them_and_another_epoch_starts_new_ones(self) -> None:
        before = children()
        loader = self.make(Numbers())
        for _ in range(2):
            assert len(list(loader.batches(1))) == 3
            assert len(children() - before) == min(2, len(os.sched_getaffinity(0)))
            loader.close()
            assert children() <= before
            loader = self.make(Numbers())

    def test_one_that_gives_nothing_is_given_up(self) -> None:
        loader = self.make(Slow(), timeout=1)
        with pytest.raises(DataError, match="no batch came within 1 s"):
            list(loader.batches(1))
        loader.close()

    @pytest.mark.parametrize(
        "error", [OSError(errno.EAGAIN, "no process is left"), RuntimeError("can't start new thread")]
    )
    def test_one_that_cannot_be_started_ends_the_others(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if len(os.sched_getaffinity(0)) < 2:
            pytest.skip("one processor takes one worker")
        before = children()
        start, started = BaseProcess.start, []

        def fail_the_second_time(process: BaseProcess) -> None:
            if started:
                raise error
            start(process)
            started.append(process.pid)

        monkeypatch.setattr(BaseProcess, "start", fail_the_second_time)
        loader = self.make(Numbers())
        with pytest.raises(DataError, match="that load batches cannot be started") as caught:
            next(loader.batches(1))
        assert "ulimit -u" in caught.value.hint
        assert set(started) <= children()
        loader.close()
        assert children() <= before
        monkeypatch.undo()
        assert len(list(loader.batches(1))) == 3
        loader.close()

    @pytest.mark.parametrize(("name", "hint"), [("SIGKILL", "lack of memory"), ("SIGBUS", "MB free")])
    def test_a_death_is_told_where_a_batch_is_waited_for(self, name: str, hint: str) -> None:
        before = children()
        loader = self.make(Slow())
        batches = loader.batches(1)
        next(batches)
        for pid in children() - before:
            os.kill(pid, signal.Signals[name])
        busy = [index for index in range(200_000) if index % 7 == 0]  # a step: nothing is raised in the middle of it
        assert busy
        with pytest.raises(DataError, match=f"a process that loads batches has died: {name}") as caught:
            list(batches)
        assert hint in caught.value.hint
        loader.close()

    @pytest.mark.parametrize("method", ["forkserver", "spawn"])
    def test_however_they_are_started_they_work_and_die_with_the_main_process(self, method: str) -> None:
        code = f"""
import multiprocessing, os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from unit.data.test_loader import Numbers, BatchLoader
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
            assert time.monotonic() < deadline, "they outlived the main process"
            time.sleep(0.05)

    def test_they_leave_stopping_to_the_main_process(self) -> None:
        before = children()
        loader = self.make(Numbers())
        list(loader.batches(1))  # they are all ready then
        batches = loader.batches(1)
        next(batches)
        for pid in children() - before:
            for number in STOP_SIGNALS:
                os.kill(pid, number)
        assert len(list(batches)) == 2
        assert len(list(loader.batches(2))) == 3
        loader.close()
