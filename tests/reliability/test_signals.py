"""A signal stops a run after its step, with everything saved, and it resumes to the same result."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from program import TINY

if sys.platform != "linux":
    pytest.skip("needs Linux: it looks into /proc", allow_module_level=True)

from forks import Forks
from processes import FULL, INTERRUPTED, TASKS, Place, Program, assert_equal_runs, new_place, resume_commands

from dbbd_cli.engine.checkpoint.files import load_checkpoint

CASES = [(task, workers) for task in TASKS for workers in (2, 0)]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
WORKERS = ("--set", "data.num_workers=2")
WITHOUT_END = ("--epochs", "100000")


@pytest.mark.parametrize(("task", "workers"), CASES if FULL else [("url_classification", 0), ("dbbd", 2)])
def test_a_stopped_run_resumes_to_the_same_result(
    task: str,
    workers: int,
    forks: Forks,
    uninterrupted: Callable[..., Path],
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    wanted = count(3, 39)  # of all kinds together; 13 of each
    options = INTERRUPTED[task]
    expected = uninterrupted(*options)
    chance = random.Random(f"{task} {workers}")
    numbers, ways = cycle(STOPS), cycle((_to_it, _to_its_group, _to_each_process))
    number, send = next(numbers), next(ways)
    stops = runs = 0
    while stops < wanted:
        with new_place(forks) as place:
            programs = [place.start("train", *options, "--set", f"data.num_workers={workers}")]
            programs[0].until(lambda: list(place.folder.glob("runs/[0-9]*")))
            while stops < wanted:
                moment = time.monotonic() + chance.choice((0.1, 0.8)) * chance.random()
                listens = programs[-1].listens
                if programs[-1].until(lambda: time.monotonic() > moment and listens()) is None:  # noqa: B023
                    send(programs[-1], number)
                if programs[-1].wait() == 0:
                    break  # it had already finished
                command = _assert_stopped(programs[-1], number, place)
                stops += 1
                number, send = next(numbers), next(ways)
                programs.append(place.start(*command))
            assert programs[-1].wait() == 0, programs[-1].output()
            assert_equal_runs(place.run, expected)
            place.assert_nothing_left(*programs)
            runs += 1
    report(f"{stops} signals in {runs} runs: each run saved, was resumed and ended bit-identical")


def _to_it(program: Program, number: int) -> None:
    os.kill(program.pid, number)


def _to_its_group(program: Program, number: int) -> None:
    """Signal the process group, as a terminal or `timeout` does."""
    os.killpg(program.pid, number)


def _to_each_process(program: Program, number: int) -> None:
    """Signal each process, as a batch system does: the workers, too, some of them first."""
    for pid in sorted(program.family(), reverse=True):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _assert_stopped(program: Program, number: int, place: Place) -> list[str]:
    """Assert that the exit code matches the signal and one line shows how to resume; return that command."""
    assert program.wait() == 128 + number, program.output()
    output = program.output()
    assert "Traceback" not in output, output
    load_checkpoint(place.run / "ckpt.pth")
    command = ["resume", str(place.run.relative_to(place.folder))]
    if len(output.splitlines()) == 1 and output.startswith("Stopped."):
        return command  # it had not yet read the command
    assert resume_commands(output) == [command], output
    return command


@pytest.mark.parametrize("task", TASKS if FULL else ["dbbd"])
def test_a_second_ctrl_c_stops_at_once(task: str, place: Place) -> None:
    training = place.training()
    program = place.start("train", *TINY[task], *WITHOUT_END, *WORKERS)
    assert program.until(training) is None, program.output()
    for worker in program.workers():
        os.kill(worker, signal.SIGSTOP)  # the step that the first Ctrl-C waits for never ends
    time.sleep(0.5)  # or SIGCHLD for the stopped workers could arrive at the same time: the system may then deliver
    os.kill(program.pid, signal.SIGINT)  # the second signal to another thread, which wakes nobody
    assert program.until(lambda: "SIGINT" in program.output()) is None
    os.kill(program.pid, signal.SIGINT)
    assert program.wait(30) == 130, program.output()
    assert "Traceback" not in program.output()
    program.assert_gone()
    load_checkpoint(place.run / "ckpt.pth")
    place.complete("resume", str(place.run), "--epochs", "1")


def test_a_hangup_stops_a_run_unless_nohup_protects_it(place: Place, forks: Forks) -> None:
    training = place.training()
    program = place.start("train", *TINY["dbbd"], *WITHOUT_END)
    assert program.until(training) is None, program.output()
    os.kill(program.pid, signal.SIGHUP)
    program.wait()
    _assert_stopped(program, signal.SIGHUP, place)

    with new_place(forks) as other:
        training = other.training()
        program = other.start("train", *TINY["dbbd"], "--epochs", "8", ignored=[signal.SIGHUP])
        assert program.until(training) is None, program.output()
        for _ in range(5):
            os.kill(program.pid, signal.SIGHUP)
        assert program.wait() == 0, program.output()


@pytest.mark.parametrize("number", STOPS if FULL else STOPS[1:2])
def test_a_signal_before_the_run_folder_exists_ends_the_program_cleanly(
    number: signal.Signals, place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    chance = random.Random(f"early {number}")
    loading = ("", "pydantic_core", "libtorch_cpu", "libtorch_python")  # immediately, and during imports
    sent = 0
    for library in (["libtorch_cpu"], [*loading] * 4)[count(0, 1)]:
        program = place.start("train", *TINY["dbbd"], "--epochs", "1", itself=True)
        maps = Path(f"/proc/{program.pid}/maps")
        assert program.until(lambda: library in maps.read_text() and program.listens(), pause=0.001) is None  # noqa: B023
        time.sleep(chance.uniform(0, count(0, 1)) * bool(library))
        if list(place.folder.glob("runs/*")):
            program.wait()
            continue  # too late
        os.kill(program.pid, number)
        code = program.wait()
        if list(place.folder.glob("runs/*")):
            continue
        sent += 1
        assert code == 128 + number, f"{library}: {code}\n{program.output()}"
        assert len(program.output().splitlines()) == 1, f"{library}: {program.output()}"
        program.assert_gone()
    report(f"{sent} times {number.name} while loading: exit {128 + number}, one line")
