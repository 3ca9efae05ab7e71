"""If a data worker dies or hangs, the run saves, ends and says so; no worker outlives its run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from program import TINY

if sys.platform != "linux":
    pytest.skip("needs Linux: it looks into /proc", allow_module_level=True)

from forks import Forks
from processes import FULL, TASKS, Place, Program, new_place, resume_commands

CASES = [(task, other) for task in TASKS for other in ("runs", "killed")]


def _training(place: Place, task: str, timeout: float = 600) -> tuple[Program, list[int]]:
    """Start an endless run; return it, once it trains, and its workers."""
    training = place.training()
    options = ["--set", "data.num_workers=2", "--set", f"data.worker_timeout={timeout}", "--epochs", "100000"]
    program = place.start("train", *TINY[task], *options)
    # After the first epoch, the loaders of both splits have their workers.
    assert program.until(lambda: training() and (place.run / "best_model.pth").exists()) is None, program.output()
    workers = program.workers()
    assert len(workers) >= 2
    return program, workers


def _assert_ended(program: Program, place: Place, seconds: float) -> str:
    """Assert that the run exits with 3 and the command it names resumes it; return its output."""
    assert program.wait(seconds) == 3, program.output()
    output = program.output()
    assert "Traceback" not in output
    (command,) = resume_commands(output)
    program.assert_gone()
    training = place.training()
    following = place.start(*command)
    assert following.until(training) is None, following.output()
    os.kill(following.pid, signal.SIGTERM)
    assert following.wait() == 143, following.output()
    place.assert_nothing_left(following)
    return output


def _assert_it_trains_on(program: Program, workers: list[int], place: Place) -> None:
    """Assert that the run finishes more epochs with the same workers."""
    log = place.run / "run.log"
    before = log.stat().st_size  # gets a line per epoch
    assert program.until(lambda: log.stat().st_size > before + 500) is None, program.output()
    assert program.workers() == workers


@pytest.mark.parametrize("task", TASKS if FULL else ["dbbd"])
def test_a_killed_worker_ends_the_run(
    task: str, forks: Forks, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    times = count(1, 10)
    longest = 0.0
    for index in range(times):
        with new_place(forks) as place:
            program, workers = _training(place, task)
            time.sleep(0.03 * index)
            start = time.monotonic()
            os.kill(workers[index % len(workers)], signal.SIGKILL)
            program.wait(30)
            longest = max(longest, time.monotonic() - start)
            assert "has died" in _assert_ended(program, place, 0)
    report(f"{times} of {times}: exit 3 after at most {longest:.1f} s, and resumed")


@pytest.mark.parametrize(("task", "other"), CASES if FULL else CASES[1:3])
def test_a_hanging_worker_ends_the_run_within_the_configured_time(
    task: str, other: str, place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    timeout = count(3, 5)
    program, workers = _training(place, task, timeout)
    start = time.monotonic()
    os.kill(workers[1], signal.SIGSTOP)
    if other == "killed":
        os.kill(workers[0], signal.SIGKILL)
    program.wait(timeout + 30)
    seconds = time.monotonic() - start
    output = _assert_ended(program, place, 0)
    assert (f"within {timeout} s" if other == "runs" else "has died") in output
    report(f"data.worker_timeout={timeout}: exit 3 after {seconds:.1f} s, and resumed")


def test_a_run_suspended_for_longer_than_the_timeout_continues(place: Place) -> None:
    timeout = 4
    program, workers = _training(place, "dbbd", timeout)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    history, size = place.run / "history.jsonl", -1
    while size != (size := history.stat().st_size):
        time.sleep(0.3)  # until there are no more steps: a batch is waited for
    os.kill(program.pid, signal.SIGSTOP)
    time.sleep(timeout + 0.5)
    for pid in (program.pid, *workers):
        os.kill(pid, signal.SIGCONT)
    _assert_it_trains_on(program, workers, place)


@pytest.mark.parametrize("stopped", [False, True])
def test_workers_die_with_the_program(stopped: bool, place: Place) -> None:
    program, workers = _training(place, "dbbd")
    if stopped:
        os.kill(workers[0], signal.SIGSTOP)
    os.kill(program.pid, signal.SIGKILL)
    program.assert_gone(seconds=2)


def test_signals_to_workers_alone_change_nothing(place: Place) -> None:
    program, workers = _training(place, "dbbd")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        for worker in workers:
            os.kill(worker, number)
    _assert_it_trains_on(program, workers, place)


@pytest.mark.parametrize("killed", [False, True])
def test_shared_memory_of_killed_workers_is_freed(killed: bool, place: Place) -> None:
    program, _ = _training(place, "dbbd")
    folders = list(Path("/dev/shm").glob(f"dbbd.{program.pid}-*"))
    assert len(folders) == 2  # one for each split
    # As if a worker had been killed between writing and passing on a batch, which cannot be timed.
    (folders[0] / "left").write_bytes(bytes(1000))
    try:
        os.kill(program.pid, signal.SIGKILL if killed else signal.SIGTERM)
        program.wait()
        program.assert_gone()
        if killed:
            training = place.training()
            following = place.start("resume", str(place.run))
            assert following.until(training) is None, following.output()
        assert not any(folder.exists() for folder in folders)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
