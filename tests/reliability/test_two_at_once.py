"""A run folder belongs to one process at a time, and is free as soon as this process has ended."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from program import TINY

if sys.platform != "linux":
    pytest.skip("needs Linux: it looks into /proc", allow_module_level=True)

from processes import SECONDS, Place, Program


def start_at_once(place: Place, commands: list[list[str]]) -> list[Program]:
    """Start many processes that all begin at the same moment."""
    programs = [place.start(*command, held=True) for command in commands]
    for program in programs:
        os.kill(program.pid, signal.SIGCONT)
    return programs


def test_of_many_processes_that_resume_a_run_exactly_one_trains(
    place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    options = [*TINY["dbbd"], "--set", "data.num_workers=2"]
    place.complete("train", *options, "--epochs", "1")
    run, many = place.run, count(6, 50)
    endless = ["resume", str(run), "--epochs", "100000"]
    training = place.training()
    running = programs = start_at_once(place, [endless] * many)
    deadline = time.monotonic() + SECONDS / 2
    while len(running) > 1:
        assert time.monotonic() < deadline, f"{len(running)} hold the run folder"
        time.sleep(0.05)
        running = [program for program in programs if program.poll() is None]
    (winner,) = running
    assert winner.until(training) is None, winner.output()
    for program in programs:
        if program is not winner:
            assert program.wait() == 7, program.output()
            assert f"process {winner.pid} on {platform.node()}" in program.output()
    late = place.start(*endless, itself=True)
    assert late.wait() == 7, late.output()
    assert f"process {winner.pid} on {platform.node()}" in late.output()

    takeovers = count(1, 20)
    for _ in range(takeovers):
        # The next one has imported everything when the last one dies.
        training = place.training()
        following = place.start(*endless, held=True)
        os.kill(winner.pid, signal.SIGKILL)
        assert winner.wait() == -signal.SIGKILL
        os.kill(following.pid, signal.SIGCONT)
        assert following.until(training) is None, following.output()
        winner.assert_gone()
        winner = following
    os.kill(winner.pid, signal.SIGTERM)
    assert winner.wait() == 143, winner.output()
    place.assert_nothing_left(*programs, winner)
    report(
        f"of {many} at once 1 trained and {many - 1} exited with 7; {takeovers} of {takeovers} takeovers after kill -9"
    )


def test_new_runs_with_the_same_name_in_the_same_second_get_separate_folders(
    place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    many = count(3, 20)
    command = ["train", *TINY["dbbd"], "--epochs", "1", "--run-name", "same"]
    for program in start_at_once(place, [command] * many):
        assert program.wait() == 0, program.output()
    runs = list((place.folder / "runs").iterdir())
    assert len(runs) == many
    names = {tuple(sorted(_name(path) for path in run.iterdir())) for run in runs}
    assert len(names) == 1, "not every run folder is complete"
    seconds = len({run.name.split("-same")[0] for run in runs})
    assert list(place.temporary.iterdir()) == []
    report(f"{many} runs started in {seconds} s, {len(runs)} folders")


def _name(path: Path) -> str:
    return "events" if path.name.startswith("events") else path.name
