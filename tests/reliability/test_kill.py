"""A run that is killed repeatedly ends with the same result as an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from program import TINY

if sys.platform != "linux":
    pytest.skip("needs Linux: it looks into /proc", allow_module_level=True)

from forks import Forks
from processes import FULL, INTERRUPTED, TASKS, Place, Program, assert_equal_runs, new_place

from dbbd_cli.engine.checkpoint.files import load_checkpoint

CASES = [(task, workers) for task in TASKS for workers in (0, 2)]


@pytest.mark.parametrize(
    ("task", "workers"),
    CASES if FULL else [("image_classification", 2), ("dbbd", 0), ("segmentation", 0), ("url_classification", 0)],
)
def test_a_killed_run_resumes_to_the_same_result(
    task: str,
    workers: int,
    forks: Forks,
    uninterrupted: Callable[..., Path],
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    wanted, options = count(3, 25), INTERRUPTED[task]
    expected = uninterrupted(*options)  # without workers: their number must not matter
    chance = random.Random(f"{task} {workers}")
    kills = early = runs = 0
    while kills < wanted:
        with new_place(forks) as place:
            training = place.training()
            programs = [place.start("train", *options, "--set", f"data.num_workers={workers}")]
            while kills < wanted and _kill(programs[-1], training, chance.uniform(0, 0.4)):
                kills += 1
                _assert_whole_batches(place.run)
                if chance.random() < 0.3:  # again, while it starts
                    programs.append(place.start("resume", str(place.run)))
                    early += _kill(programs[-1], lambda: True, chance.uniform(0, 0.2))
                training = place.training()
                programs.append(place.start("resume", str(place.run)))
            assert programs[-1].wait() == 0, programs[-1].output()
            assert_equal_runs(place.run, expected)
            assert _names(place.run) == _names(expected)
            assert _steps_of_events(place.run) == _steps_of_events(expected)
            place.assert_nothing_left(*programs)
            runs += 1
    report(f"{kills} kills while training, {early} while starting, {runs} runs: all resumed and bit-identical")


def test_the_installed_program_resumes_after_a_kill_too(
    place: Place, uninterrupted: Callable[..., Path], report: Callable[[str], None]
) -> None:
    options = INTERRUPTED["dbbd"]
    expected = uninterrupted(*options)
    training = place.training()
    killed = place.start("train", *options, "--set", "data.num_workers=2", itself=True)
    assert _kill(killed, training, 0.0), killed.output()
    resumed = place.start("resume", str(place.run), itself=FULL)
    assert resumed.wait() == 0, resumed.output()
    assert_equal_runs(place.run, expected)
    assert _steps_of_events(place.run) == _steps_of_events(expected)
    place.assert_nothing_left(killed, resumed)
    report("1 kill without the shortcut for imports: resumed and bit-identical")


@pytest.mark.parametrize("task", ["image_classification", "dbbd"])  # URLs are prepared in memory
def test_killed_preparation_leaves_nothing_behind(
    task: str, place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    much = {
        "image_classification": ("--set", "data.sample_per_class=300", "--set", "data.image_size=96"),
        "dbbd": ("--set", "data.synthetic_points=20000"),
    }
    chance = random.Random(f"preparation {task}")
    kills, strays = count(1, 25), 0
    for seed in range(kills):
        program = place.start("train", *TINY[task], *much[task], "--epochs", "1", "--seed", str(seed))
        found = program.until(lambda: list(place.cache.rglob("*")))
        assert found is None, program.output()
        if not _kill(program, lambda: True, chance.uniform(0, 0.5)):
            assert program.wait() == 0, program.output()
        strays += any(path.suffix == ".tmp" for path in place.folder.rglob("*"))
    place.complete("train", *TINY[task], "--epochs", "1", "--seed", "1000000")
    runs = list((place.folder / "runs").iterdir())
    for run in runs:
        load_checkpoint(run / "ckpt.pth")  # a folder exists complete or not at all
    place.assert_nothing_left()
    report(
        f"{kills} kills during preparation, {strays} left files, which a later run removed; {len(runs)} complete runs"
    )


def test_preparation_that_was_killed_prepares_the_missing_scenes_and_only_these(
    place: Place, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    rooms = ("--config", "smoke_dbbd", "--set", "data.synthetic_scenes=20", "--set", "data.synthetic_points=5000")
    command = ["prepare", *rooms, "--workers", "2", "--json"]
    reference = prepared_now(place, command, 0)
    total, chance = len(reference), random.Random("prepare")
    kills = count(2, 20)
    for number in range(kills):
        for path in place.cache.iterdir():
            path.unlink()
        program = place.start(*command, itself=True)
        wanted = chance.randrange(1, total - 4)
        assert program.until(lambda wanted=wanted: len(prepared_files(place)) >= wanted) is None, program.output()  # type: ignore[misc]
        victims = [program.pid] if number % 2 == 0 else workers_of_pool(program)
        for victim in victims[:1]:
            os.kill(victim, signal.SIGKILL)
        if number % 2 == 0:
            assert program.wait() == -signal.SIGKILL
            program.assert_gone()
        else:  # the scenes of the worker get a process of their own
            assert program.wait() == 0, program.output()
            assert len(prepared_files(place)) == total
        assert prepared_now(place, command, len(prepared_files(place))) == reference
        assert {path.suffix for path in place.cache.iterdir()} == {".arrays", ".txt"}
    place.assert_nothing_left()
    report(
        f"{kills} kills of `dbbd prepare` or of its workers: only missing scenes were prepared again, bit-identically"
    )


def prepared_files(place: Place) -> dict[str, bytes]:
    """The prepared scenes in the cache by name."""
    return {path.name: path.read_bytes() for path in place.cache.glob("scene-*.arrays")}


def prepared_now(place: Place, command: list[str], cached: int) -> dict[str, bytes]:
    """The prepared scenes after running `dbbd prepare`, which must find the given number of them in the cache."""
    program = place.start(*command, itself=True)
    assert program.wait() == 0, program.output()
    result, files = json.loads(program.out.read_text()), prepared_files(place)
    assert (result["cached"], result["prepared"], result["problems"]) == (cached, len(files) - cached, [])
    return files


def workers_of_pool(program: Program) -> list[int]:
    """Its processes that prepare scenes."""
    return [pid for pid in program.workers() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _kill(program: Program, condition: Callable[[], bool], delay: float) -> bool:
    """Kill a program some time after a condition holds; return whether it was still running."""
    if program.until(condition) is None:
        time.sleep(delay)
        os.kill(program.pid, signal.SIGKILL)
    return program.wait() == -signal.SIGKILL


def _assert_whole_batches(run: Path) -> None:
    """Assert that the sums of the epoch include each past batch once."""
    state = torch.load(run / "ckpt.pth", weights_only=True)
    size = state["config"]["training"]["batch_size"]
    assert state["state"]["sums"]["num_samples"] == state["state"]["batch"] * size


def _steps_of_events(run: Path) -> dict[str, list[int]]:
    """Return the steps of each TensorBoard scalar; each step must occur once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag, steps in found.items():
        assert steps == sorted(set(steps)), tag
    return found


def _names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents")}
