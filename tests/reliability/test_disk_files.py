"""If any single file that a command writes does not fit on the disk, it exits with 6 and loses nothing."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import AHEAD, Call, injection, of_main, trace, why_not
from forks import DBBD, Ended, Forks
from small_disk import free_and_needed_mb
from stored_runs import EVERY_STEP, TASKS, StoredRuns, cases, run_in, saved_steps, strays, unlike

traced = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


def written(calls: list[Call], folder: Path) -> dict[str, Call]:
    """Return the last writing call of the main thread for each kind of file in a folder."""
    found = {}
    for call in of_main(calls):
        if call.name in ("write", "pwrite64", "writev") and folder in call.path.parents:
            found[kind(call.path)] = call
    return found


def kind(path: Path) -> str:
    """Return the kind of file at a path: its final name without process IDs and times."""
    return re.sub(r"\.\d+(-[0-9a-f]{8})+\.tmp$", "", path.name)


@traced
@pytest.mark.parametrize(
    ("task", "error"),
    cases(
        [("url_classification", "EDQUOT"), ("dbbd", "ENOSPC")],
        [(task, error) for task in TASKS for error in ("ENOSPC", "EDQUOT")],
    ),
)
def test_no_room_for_any_file_that_a_run_writes(
    task: str,
    error: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    def run(folder: Path, *options: str) -> tuple[Ended, list[Call]]:
        folder.mkdir()
        arguments = ("train", *EVERY_STEP[task], "--epochs", "1")
        return trace(forks.start(AHEAD + DBBD, *arguments, folder=folder, held=True), folder, *options)

    files = written(run(tmp_path / "whole")[1], tmp_path / "whole" / "runs")
    assert files.keys() >= {
        *("config.yaml", "splits.json", "environment.json", "SYNTHETIC_DATA.txt", "history.jsonl", "run.log"),
        "ckpt.pth",
    }
    files.pop("run.owner", None)  # information about who uses the folder; a run continues without it
    chosen = list(files)[:: -count(1 if task == "dbbd" else 6, 1)]
    for number, name in enumerate(chosen):
        # The call is identified by its number, and runs may differ by a line on the terminal.
        for shift in (0, 1, -1, 2, -2, 3, -3):
            folder = tmp_path / f"{number}{shift:+}"
            call = replace(files[name], number=files[name].number + shift)
            ended, seen = run(folder, *injection(call, f"error={error}"))
            if name in [kind(call.path) for call in seen if call.injected]:
                break
        else:
            pytest.fail(f"{error} never met {name}")
        assert ended.code == 6, (name, ended)
        free_and_needed_mb(ended.err)
        assert strays(folder) == [], name
        if (begun := run_in(folder)) and number % count(3, 1) == 0:
            saved_steps(begun)
            again = stored_runs.resume(begun, 2)
            assert again.code == 0, (name, again)
            assert unlike(begun, stored_runs.extended(task, 1, 2)) == [], name
    report(f"{task}: {error} met in {', '.join(chosen)}: exit 6 each time")


@traced
@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_no_room_for_tensorboard_events(task: str, forks: Forks, stored_runs: StoredRuns, tmp_path: Path) -> None:
    """They are written by another thread, whose calls are identified by the file alone."""

    def resume(folder: Path, when: str) -> tuple[Path, Ended, list[Call]]:
        run = stored_runs.copy(stored_runs.done(task, 1), folder)
        copy = forks.start(DBBD, "resume", str(run), "--epochs", "2", folder=folder, held=True)
        now = int(time.time())
        names = [f"events.out.tfevents.{second}.{socket.gethostname()}.{copy.pid}.0" for second in range(now, now + 60)]
        files = [option for name in names for option in ("-P", str(run / name))]
        fault = ["-e", f"inject=write:error=ENOSPC:when={when}"] if when else []
        return run, *trace(copy, folder, *files, *fault)

    _, ended, seen = resume(tmp_path / "whole", "")
    assert ended.code == 0, ended
    last = sum(call.name == "write" for call in seen)
    for when in ("2+", f"{last}+"):
        run, ended, seen = resume(tmp_path / when, when)
        assert any(call.injected for call in seen), seen
        assert ended.code == 6, (when, ended)
        free_and_needed_mb(ended.err)
        assert "Traceback" not in ended.err, (when, ended.err)
        saved_steps(run)
        assert strays(run) == []
        again = stored_runs.resume(run, 2)
        assert again.code == 0, again
        assert unlike(run, stored_runs.extended(task, 1, 2)) == []


@traced
@pytest.mark.parametrize("task", TASKS)
def test_no_room_for_any_file_that_an_evaluation_writes(
    task: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    if count(1, 0):
        pytest.skip("takes half a minute: only in the full count")

    def evaluate(folder: Path, *options: str) -> tuple[Ended, list[Call]]:
        run = stored_runs.copy(stored_runs.done(task, 1), folder)
        return trace(forks.start(AHEAD + DBBD, "evaluate", str(run), folder=folder, held=True), folder, *options)

    ended, calls = evaluate(tmp_path / "whole")
    assert ended.code == 0, ended
    files = written(calls, tmp_path / "whole")
    assert "evaluation.json" in files
    for name in files:
        folder = tmp_path / name
        ended, seen = evaluate(folder, *injection(files[name], "error=ENOSPC"))
        assert name in [kind(call.path) for call in seen if call.injected], name
        if name.endswith(".png"):  # the report exists; a missing figure is only a warning
            assert ended.code == 0, (name, ended)
            assert f"Warning: {name} could not be drawn" in ended.err
        else:
            assert ended.code == 6, (name, ended)
        assert strays(folder) == [], name
        (run,) = folder.iterdir()
        saved_steps(run)
    report(f"{task}: ENOSPC met in {', '.join(files)} of an evaluation: exit 6, or for a figure a warning")
