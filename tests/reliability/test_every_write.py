"""A save interrupted at any of its system calls leaves an intact checkpoint."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import AHEAD, Call, injection, of_main, trace, why_not
from forks import DBBD, Ended, Forks
from program import only_run
from stored_runs import (
    EVERY_STEP,
    SHORT,
    TASKS,
    StoredRuns,
    cases,
    content,
    run_in,
    sample,
    saved_steps,
    strays,
    unlike,
)

from dbbd_cli.core.errors import DiskError
from dbbd_cli.engine.checkpoint.files import CONTENT, load_checkpoint, save_checkpoint

KILLED = -9
FAULTS = ["signal=KILL", "error=ENOSPC", "error=EIO"]
LIE = "retval=1"
"""A disk that reports a byte as written but has not written it."""
KEEP = 3
SAVE = f"""
try:
    save_checkpoint(state, Path("run"), best=True, keep={KEEP})
except DbbdError as error:
    sys.exit(f"{{error.message}}") if error.exit_code != 6 else sys.exit(6)
"""
PREPARE_SAVE = """
import sys
from pathlib import Path
from dbbd_cli.engine.checkpoint.files import CONTENT, load_checkpoint, save_checkpoint
from dbbd_cli.core.errors import DbbdError
state = load_checkpoint(Path("next.pth"))
state.pop("format")
"""
traced = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


def small_state(run: Path) -> dict[str, Any]:
    """Return the content of a checkpoint with large tensors truncated, so that saving it is fast."""

    def part(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.flatten()[:200].clone()
        return {key: part(item) for key, item in value.items()} if isinstance(value, dict) else value

    state = load_checkpoint(run / "ckpt.pth")
    state.pop("format")
    return {key: part(value) for key, value in state.items()}


def save_all(state: dict[str, Any], folder: Path) -> None:
    """Save steps 1 to 4 to `folder/run`, of which 2 is the best, and 5 to `folder/next.pth`."""
    (folder / "run").mkdir(parents=True)
    (folder / "next").mkdir()
    for step in range(1, 6):
        state["state"]["step"] = step
        save_checkpoint(state, folder / ("next" if step == 5 else "run"), best=step == 2, keep=KEEP)
    shutil.move(folder / "next" / "ckpt.pth", folder / "next.pth")


def check_order(calls: list[Call], run: Path) -> None:
    """Check that content is flushed before it gets its name, and the name before the save ends: for power cuts."""
    (renamed,) = (
        index for index, call in enumerate(calls) if call.name[:6] == "rename" and call.path.name == "ckpt.pth"
    )
    written = max(index for index, call in enumerate(calls[:renamed]) if call.name == "write")
    assert re.fullmatch(r"ckpt\.pth\.\d+(-[0-9a-f]{8})+\.tmp", calls[written].path.name)
    synced = {index: call.path for index, call in enumerate(calls) if call.name in ("fsync", "fdatasync")}
    assert calls[written].path in [path for index, path in synced.items() if written < index < renamed]
    assert run in [path for index, path in synced.items() if index > renamed]


def check_save(folder: Path, what: str, ended: Ended, call: Call) -> None:
    """Check a folder in which the save of step 5 was interrupted."""
    steps = saved_steps(folder / "run")
    newest, best = steps["ckpt.pth"], steps.pop("best_model.pth")
    assert newest in (4, 5), (what, call, steps)
    assert best in (2, 5), (what, call, steps)
    assert set(steps.values()) >= ({3, 4} if newest == 4 else {3, 4, 5}), (what, call, steps)
    if what == "signal=KILL":
        assert ended.code == KILLED, (call, ended)
        return
    assert strays(folder) == [], (what, call)
    if ended.code != 6:  # it used a fallback
        assert (ended.code, newest, best) == (0, 5, 5), (what, call, ended)
        assert call.name in ("link", "linkat", "unlink", "unlinkat"), (what, call, ended)


@traced
@pytest.mark.parametrize(
    ("task", "what"),
    cases(
        [("url_classification", FAULTS[0]), *(("dbbd", what) for what in [*FAULTS, LIE])],
        [(task, what) for task in TASKS for what in [*FAULTS, LIE]],
    ),
)
def test_a_save_interrupted_at_any_call_leaves_an_intact_checkpoint(
    task: str,
    what: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    save_all(small_state(stored_runs.done(task, 1)), tmp_path / "saved")

    def save(folder: Path, *options: str) -> tuple[Ended, list[Call]]:
        shutil.copytree(tmp_path / "saved", folder)
        return trace(forks.start(SAVE, folder=folder, before=PREPARE_SAVE, held=True), folder, *options)

    ended, calls = save(tmp_path / "whole")
    assert ended.code == 0, ended.err
    assert saved_steps(tmp_path / "whole" / "run") == {
        **{"ckpt.pth": 5, "ckpt.previous.pth": 4, "ckpt.previous2.pth": 3},
        "best_model.pth": 5,
    }
    check_order(calls, tmp_path / "whole" / "run")
    calls = [call for call in calls if tmp_path / "whole" in call.path.parents]
    if what != "signal=KILL":
        calls = [call for call in calls if call.changes]
    if what == LIE:
        calls = [call for call in calls if call.name == "write"]
    assert calls
    chosen = sample(
        calls,
        count({"signal=KILL": 5, "error=ENOSPC": 3}.get(what, 2), 10_000),
        key=lambda call: (call.name, call.path.suffix),
    )
    for number, call in enumerate(chosen):
        folder = tmp_path / str(number)
        ended, seen = save(folder, *injection(call, what))
        check_save(folder, what, ended, call)
        if what != "signal=KILL":
            assert any(found.injected for found in seen), call
        if what == LIE:
            assert ended.code == 6, call
        shutil.rmtree(folder)
    report(f"{task}, {what}: {len(chosen)} of {len(calls)} calls of a save interrupted, an intact checkpoint each time")


def last_saved_step(calls: list[Call]) -> int:
    """Return the newest step certain to be saved, for a run that saves every step and was killed at its last call."""
    return sum(call.name.startswith("rename") and call.path.name == "ckpt.pth" and call.ended for call in calls) - 1


def check_run(
    folder: Path, what: str, ended: Ended, seen: list[Call], call: Call, stored: StoredRuns, task: str
) -> bool:
    """Check an interrupted run; return whether it can be resumed."""
    run = run_in(folder)
    if what == "signal=KILL":
        assert ended.code == KILLED, (call, ended)
    else:
        assert ended.code in (0, 6), (what, call, ended)
        assert "Traceback" not in ended.err, (what, call, ended)
        assert strays(folder) == [], (what, call, ended)
        if ended.code == 6:
            assert "Error:" in ended.err, (what, call, ended)
    if run is None:
        assert ended.code, (what, call, ended)
        return False
    steps = saved_steps(run)
    if what == "signal=KILL":
        assert last_saved_step(seen) <= steps["ckpt.pth"] <= last_saved_step(seen) + 1, (call, steps)
    if ended.code == 0:
        assert unlike(run, stored.done(task, 1)) == [], (what, call)
    return True


@traced
@pytest.mark.parametrize(
    ("task", "what"),
    # `test_disk.py` covers errors of every kind of file, too.
    cases(
        [(task, FAULTS[0]) for task in SHORT],
        [(task, what) for task in TASKS for what in FAULTS],
    ),
)
def test_a_run_interrupted_at_any_call_resumes_where_it_was(
    task: str,
    what: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    reference = stored_runs.extended(task, 1, 2)

    def train(folder: Path, *options: str) -> tuple[Ended, list[Call]]:
        folder.mkdir()
        arguments = ("train", *EVERY_STEP[task], "--epochs", "1")
        return trace(forks.start(AHEAD + DBBD, *arguments, folder=folder, held=True), folder, *options)

    ended, calls = train(tmp_path / "whole")
    assert ended.code == 0, ended.err
    calls = [call for call in of_main(calls) if call.changes and tmp_path / "whole" / "runs" in call.path.parents]
    chosen = interesting(calls, count(1, 3 if (task, what) == ("dbbd", "signal=KILL") else 1))
    of_saves = [call for call in chosen if kind(call.path) == "ckpt"]
    others = [call for call in chosen if kind(call.path) != "ckpt"]
    chosen = sample(of_saves, count(2, 10_000), key=lambda call: call.name)
    chosen += sample(others, count(2 if task == "dbbd" else 0, 10_000), key=lambda call: kind(call.path))
    resumed, codes, completed, left_over = 0, Counter[int](), set(), 0
    for number, call in enumerate(chosen):
        folder = tmp_path / str(number)
        ended, seen = train(folder, *injection(call, what))
        codes[ended.code] += 1
        if ended.code == 0:
            completed.add(f"{call.name} of {kind(call.path)}")
        left_over += bool(strays(folder))
        if (
            check_run(folder, what, ended, seen, call, stored_runs, task)
            and number % count(2, 1 if what == "signal=KILL" else 3) == 0
        ):
            run = only_run(folder)
            again = stored_runs.resume(run, 2)
            assert again.code == 0, (what, call, again)
            assert unlike(run, reference) == [], (what, call)
            assert strays(folder) == [], (what, call)
            resumed += 1
        elif run_in(folder) is None and strays(folder):  # removed by the next run
            assert forks.dbbd("train", *EVERY_STEP[task], "--epochs", "1", folder=folder).code == 0
            assert strays(folder) == [], (what, call)
        shutil.rmtree(folder)
    assert bool(left_over) == (what == FAULTS[0])
    report(
        f"{task}, {what}: {len(chosen)} of {len(calls)} calls of a run interrupted, exit codes {dict(codes)}; "
        f"{resumed} of {resumed} resumed to the same bits; completed despite an error: {sorted(completed) or 'none'}"
    )


HELD_IN_A_SAVE = """
import signal, sys, threading
saves = []
def hold(event, arguments):
    thread = threading.current_thread()
    if event == "open" and thread.name == "checkpoint" and thread not in saves and str(arguments[0]).endswith(".tmp"):
        saves.append(thread)
        if len(saves) == 2:
            with open("thread", "w") as file:
                file.write(str(thread.native_id))
            signal.pthread_kill(thread.ident, signal.SIGSTOP)  # this thread first: it gets no further
sys.addaudithook(hold)
"""
"""Code that stops the program where it begins to write the second checkpoint in the background, that of epoch 1."""


@traced
@pytest.mark.parametrize(
    ("task", "what"),
    cases([("dbbd", what) for what in [*FAULTS, LIE]], [(task, what) for task in TASKS for what in [*FAULTS, LIE]]),
)
def test_a_background_save_interrupted_at_any_call_leaves_an_intact_checkpoint(
    task: str,
    what: str,
    forks: Forks,
    stored_runs: StoredRuns,
    tmp_path: Path,
    count: Callable[[int, int], int],
    report: Callable[[str], None],
) -> None:
    reference = stored_runs.done(task, 2)

    def train(folder: Path, *options: str) -> tuple[Ended, list[Call]]:
        folder.mkdir()
        arguments = ("train", *EVERY_STEP[task], "--epochs", "2")
        copy = forks.start(DBBD, *arguments, folder=folder, before=HELD_IN_A_SAVE)
        copy.wait_until_held()
        thread = int((folder / "thread").read_text(encoding="utf-8"))
        assert thread != copy.pid
        return trace(copy, folder, *options, thread=thread)

    ended, calls = train(tmp_path / "whole")
    assert ended.code == 0, ended.err
    assert unlike(only_run(tmp_path / "whole"), reference) == []
    check_order(calls, only_run(tmp_path / "whole"))
    calls = [call for call in calls if only_run(tmp_path / "whole") in call.path.parents]
    if what != "signal=KILL":
        calls = [call for call in calls if call.changes]
    if what == LIE:
        calls = [call for call in calls if call.name == "write"]
    chosen = sample(calls, count(2, 10_000), key=lambda call: (call.name, call.path.suffix))
    resumed = 0
    for number, call in enumerate(chosen):
        folder = tmp_path / str(number)
        ended, seen = train(folder, *injection(call, what))
        run = only_run(folder)
        steps = saved_steps(run)
        if what == "signal=KILL":
            assert ended.code == KILLED, (call, ended)
            assert steps["ckpt.pth"] in (1, 2), (call, steps)
        else:
            assert any(found.injected for found in seen), call
            assert "Traceback" not in ended.err, (call, ended)
            assert strays(folder) == [], (call, ended)
            if ended.code == 0:  # it used a fallback
                assert call.name in ("link", "linkat", "unlink", "unlinkat"), (call, ended)
                assert steps["ckpt.pth"] == 4, (call, steps)
            else:
                assert ended.code == 6, (call, ended)
                assert what != LIE or steps["ckpt.pth"] == 1, (call, steps)
                assert steps["ckpt.pth"] in (1, 2), (call, steps)
                assert "continue with: dbbd resume" in " ".join(ended.err.split()), (call, ended)
        if number % count(2, 1) == 0:
            again = stored_runs.resume(run, 2)
            assert again.code == 0, (call, again)
            assert unlike(run, reference) == [], (what, call)
            assert strays(folder) == [], (what, call)
            resumed += 1
        shutil.rmtree(folder)
    report(
        f"{task}, {what}: {len(chosen)} of {len(calls)} calls of a background save interrupted; "
        f"{resumed} of {resumed} resumed to the same bits"
    )


def kind(path: Path) -> str:
    """Return the kind of file at a path, without process IDs and times."""
    return "events" if path.name.startswith("events.") else path.name.split(".pth")[0].split(".tmp")[0].split("-")[0]


def interesting(calls: list[Call], most: int) -> list[Call]:
    """Return the calls without most of those that write repeatedly to the same file."""
    groups: dict[tuple[str, Path, bool], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.name, call.path, call.main), []).append(call)
    chosen = {call for group in groups.values() for call in sample(group, most)}
    return [call for call in calls if call in chosen]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_save_whose_calls_fail_one_by_one_keeps_the_old_checkpoint(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without a tracer, for systems without one."""
    parts = {name: {"weight": torch.arange(20.0)} for name in CONTENT - {"format"}}
    save_all(parts, tmp_path / "saved")
    state = load_checkpoint(tmp_path / "saved" / "next.pth")
    state.pop("format")
    before = content(tmp_path / "saved")
    calls = 0
    for fails_at in range(1, 100):
        folder = tmp_path / str(fails_at)
        shutil.copytree(tmp_path / "saved", folder)
        calls = 0

        def failing(original: Callable[..., Any], fails_at: int = fails_at) -> Callable[..., Any]:
            def call(*positional: Any, **keywords: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == fails_at:
                    raise OSError(number, os.strerror(number))
                return original(*positional, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                save_checkpoint(state, folder / "run", best=True, keep=KEEP)
                failed = False
            except DiskError:
                failed = True
        assert failed == (calls >= fails_at)
        assert strays(folder) == []
        steps = saved_steps(folder / "run")
        assert steps["ckpt.pth"] in (4, 5)
        if not failed:
            assert fails_at > 5
            assert content(tmp_path / "saved") == before
            return
    raise AssertionError("a save never came to its end")
