"""On a full or unwritable disk a run exits with 6, loses nothing, and can be resumed once there is space."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import DBBD, Ended, Forks
from program import only_run
from small_disk import empty, fill, free_and_needed_mb, make_read_only, small_disk
from small_disk import why_not as why_no_disk
from stored_runs import EVERY_STEP, SHORT, TASKS, StoredRuns, cases, content, saved_steps, strays, unlike

DISK_MB = {"image_classification": 110.0, "dbbd": 20.0, "segmentation": 20.0, "url_classification": 50.0}
LARGER = {
    "image_classification": (),
    "url_classification": (),
    "segmentation": (),
    # Large enough for its checkpoints to consist mainly of weights.
    "dbbd": (
        *("--set", "model.output_dim=128", "--set", "model.hidden_dim=128"),
        *("--set", "model.encoder_hidden_dims=[128]"),
    ),
}
EPOCHS = 2
HELD_AT_THE_FOURTH_SAVE = """
import os, signal, sys
saves = 0
def hold(event, arguments):
    global saves
    if event == "os.rename" and str(arguments[1]).endswith("ckpt.pth"):
        saves += 1
        if saves == 4:
            os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(hold)
"""
mounts = pytest.mark.skipif(bool(why_no_disk()), reason=why_no_disk() or "-")


@pytest.fixture
def disk(task: str, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MB[task]) as folder:
        yield folder


def checkpoint_size(stored: StoredRuns, task: str) -> int:
    return (stored.done(task, 1) / "ckpt.pth").stat().st_size


@mounts
@pytest.mark.parametrize("task", cases(SHORT, TASKS))
def test_a_disk_that_fills_up_while_a_run_trains(
    task: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    size, epochs = checkpoint_size(stored_runs, task), EPOCHS
    reference = stored_runs.done(task, epochs)
    levels = count({"dbbd": 2}.get(task, 1), 20)
    codes = []
    for number in range(levels):
        leave = int(1.25 * size * number / levels)
        with small_disk(tmp_path / f"disk{number}", DISK_MB[task]) as disk:
            options = (*EVERY_STEP[task], "--epochs", str(epochs))
            copy = forks.start(DBBD, "train", *options, folder=disk, before=HELD_AT_THE_FOURTH_SAVE)
            copy.wait_until_held()
            run = only_run(disk)
            fill(disk, leave)  # another program fills almost all of the space
            os.kill(copy.pid, signal.SIGCONT)
            ended = copy.wait()
            codes.append(ended.code)
            check_full(run, ended, leave, size)
            empty(disk)
            again = stored_runs.resume(run, epochs)
            assert again.code == 0, (leave, again)
            assert unlike(run, reference) == [], leave
            assert strays(disk) == [], leave
    assert codes[: int(levels / 1.3)] == [6] * int(levels / 1.3), codes
    report(f"{task}: {levels} fill levels, {codes.count(6)} runs out of room, all resumed to the same bits")


def check_full(run: Path, ended: Ended, leave: int, size: int) -> None:
    """Check a run that met a full disk."""
    assert strays(run) == [], (leave, ended)
    assert "Traceback" not in ended.err, (leave, ended)
    assert saved_steps(run).keys() >= {"ckpt.pth", "ckpt.previous.pth"}, (leave, ended)
    if leave > size:
        assert ended.code in (0, 6), (leave, ended)
    else:
        assert ended.code == 6, (leave, ended)
    if ended.code == 6:
        free_mb, needed_mb = free_and_needed_mb(ended.err)
        assert free_mb <= leave / 1e6 + 0.1
        assert needed_mb == pytest.approx(size / 1e6, rel=0.5, abs=0.1)
        assert f"dbbd resume {run.relative_to(run.parents[1])}" in " ".join(ended.err.split())


@mounts
@pytest.mark.parametrize("task", cases(SHORT, TASKS))
def test_a_run_does_not_start_if_its_checkpoints_do_not_fit(
    task: str,
    forks: Forks,
    stored_runs: StoredRuns,
    disk: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    size = (stored_runs.done(task, 1, *LARGER[task]) / "ckpt.pth").stat().st_size
    refused = 0
    # How many checkpoints to keep, and how many fit on the disk; the best and an unfinished one come on top.
    for keep, room in ((2, 3.5), (4, 5.5), (2, 0.0), (1, 0.5), (1, 2.5))[: count(3, 5)]:
        fill(disk, int(room * size))
        options = (*EVERY_STEP[task], *LARGER[task], "--epochs", "1", "--set", f"checkpoint.keep={keep}")
        ended = forks.dbbd("train", *options, folder=disk)
        assert ended.code == 6, (keep, room, ended)
        free_mb, needed_mb = free_and_needed_mb(ended.err)
        assert free_mb < needed_mb
        assert list(disk.glob("runs/*")) == [], (keep, room)
        assert strays(disk) == []
        empty(disk)
        refused += 1
    assert forks.dbbd("train", *EVERY_STEP[task], "--epochs", "1", folder=disk).code == 0
    report(f"{task}: {refused} of {refused} runs that would not fit were refused")


@mounts
@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_commands_on_a_full_disk_change_nothing(task: str, forks: Forks, stored_runs: StoredRuns, disk: Path) -> None:
    run = stored_runs.copy(stored_runs.done(task, 1), disk / "runs")
    before = content(run)
    fill(disk, 0)
    for command in ("resume", "evaluate"):
        options = ("--epochs", "2") if command == "resume" else ()
        ended = forks.dbbd(command, str(run), *options, folder=disk)
        assert ended.code == 6, (command, ended)
        assert strays(disk) == []
        now = content(run)
        assert {name: now[name] for name in before if name.endswith(".pth")} == {
            name: data for name, data in before.items() if name.endswith(".pth")
        }
    empty(disk)
    assert stored_runs.resume(run, 2).code == 0
    assert unlike(run, stored_runs.extended(task, 1, 2)) == []


@mounts
@pytest.mark.parametrize("task", ["dbbd"])
def test_an_export_on_a_full_disk_leaves_nothing_behind(
    task: str, forks: Forks, stored_runs: StoredRuns, disk: Path
) -> None:
    run = stored_runs.copy(stored_runs.done(task, 1), disk / "runs")
    before = content(disk)
    for leave in (0, 8_000):
        fill(disk, leave)
        for file in (run / "best_model.safetensors", run / "net.pth"):
            ended = forks.dbbd("export", str(run), "--out", str(file), folder=disk)
            assert ended.code == 6, (leave, ended)
            assert f"{file.name} cannot be written: No space left" in " ".join(ended.err.split())
            assert "Free some space" in ended.err
        empty(disk)
        assert content(disk) == before
    assert forks.dbbd("export", str(run), folder=disk).code == 0


@mounts
@pytest.mark.parametrize("task", ["image_classification", "dbbd"])  # URLs have no cache
def test_a_cache_on_a_full_disk(task: str, forks: Forks, disk: Path, count: Callable[[int, int], int]) -> None:
    levels = {"image_classification": (8_000, 0, 4_000, 12_000, 16_000), "dbbd": (20_000, 0, 45_000, 90_000, 150_000)}
    for leave in levels[task][: count(1, 5)]:
        fill(disk, leave)
        options = (*EVERY_STEP[task], "--epochs", "1", "--set", f"data.cache_dir={disk / 'cache'}")
        elsewhere = disk.parent / str(leave)
        elsewhere.mkdir()
        ended = forks.dbbd("train", *options, folder=elsewhere)
        assert ended.code == 6, (leave, ended)
        assert "cache" in ended.err
        assert "data.cache_dir" in ended.err
        assert strays(disk) == []
        assert list(elsewhere.glob("runs/*")) == []
        empty(disk)
    assert forks.dbbd("train", *options, folder=elsewhere).code == 0


@mounts
@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_a_folder_that_cannot_be_written(task: str, forks: Forks, stored_runs: StoredRuns, disk: Path) -> None:
    run = stored_runs.copy(stored_runs.done(task, 1), disk / "runs")
    before = content(disk)
    make_read_only(disk)
    train = ("train", *EVERY_STEP[task], "--epochs", "1")
    for arguments in (
        (*train, "--runs-dir", str(disk / "runs")),
        (*train, "--set", f"data.cache_dir={disk / 'cache'}"),
        ("resume", str(run), "--epochs", "2"),
        ("evaluate", str(run)),
    ):
        ended = forks.dbbd(*arguments, folder=disk.parent)
        assert ended.code == 6, (arguments, ended)
        assert "Traceback" not in ended.err
        assert content(disk) == before
    assert list(disk.parent.glob("runs/*")) == []


@pytest.mark.parametrize("task", cases(SHORT, TASKS))
def test_old_checkpoints_are_pruned_to_the_configured_number(
    task: str, stored_runs: StoredRuns, count: Callable[[Any, Any], Any]
) -> None:
    previous = ["ckpt.previous.pth", "ckpt.previous2.pth", "ckpt.previous3.pth"]
    for keep in count({"dbbd": (1, 4)}.get(task, (4,)), (1, 2, 3, 4)):
        run = stored_runs.done(task, 2, "--set", f"checkpoint.keep={keep}")
        steps = saved_steps(run)
        steps.pop("best_model.pth")
        assert list(steps) == ["ckpt.pth", *previous[: keep - 1]]
        newest = steps["ckpt.pth"]
        assert list(steps.values()) == list(range(newest, newest - keep, -1))


def test_surplus_checkpoints_are_removed_at_the_next_save(stored_runs: StoredRuns, tmp_path: Path) -> None:
    run = stored_runs.copy(stored_runs.done("dbbd", 2, "--set", "checkpoint.keep=4"), tmp_path)
    assert len(saved_steps(run)) == 5
    ended = stored_runs.resume(run, 3, "--set", "checkpoint.keep=2")
    assert ended.code == 0, ended
    assert saved_steps(run).keys() == {"ckpt.pth", "ckpt.previous.pth", "best_model.pth"}
