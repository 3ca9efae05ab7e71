"""A run of many epochs keeps its open files and processes, and every record; `make soak` looks at memory too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forks import DBBD, Copy, Forks
from soak import missing_records, soak
from stored_runs import TASKS, StoredRuns, cases


@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_many_epochs_leave_nothing_open_and_nothing_out(
    task: str, forks: Forks, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    def begin(arguments: Sequence[str], folder: Path) -> Copy:
        return forks.start(DBBD, *arguments, folder=folder)

    findings = soak(task, count(16, 300), tmp_path, begin, seconds_between=0.05)
    assert findings.missing == []
    half = len(findings.settled) // 2
    assert half >= 2
    # What is open changes within a step; the least that is open does not.
    for name in ("files", "processes"):
        early, late = (
            min(getattr(sample, name) for sample in samples)
            for samples in (findings.settled[:half], findings.settled[half:])
        )
        assert late <= early + 1, (name, early, late)
    report(f"{task}: {findings.epochs} epochs, all records there, no more files or processes open at the end")
    assert findings.samples[0].processes >= 2, "no process loads batches"


def test_what_is_missing_is_found(stored_runs: StoredRuns, tmp_path: Path) -> None:
    run = stored_runs.copy(stored_runs.done("dbbd", 1), tmp_path)
    assert missing_records(run, 1) == []
    assert missing_records(run, 2) != []
    history = run / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines(keepends=True)
    history.write_text("".join(lines[1:]), encoding="utf-8")
    assert missing_records(run, 1) != []
    history.write_text("".join(lines), encoding="utf-8")
    (events,) = run.glob("events.out.*")
    events.write_bytes(events.read_bytes()[:600])
    assert missing_records(run, 1) != []
