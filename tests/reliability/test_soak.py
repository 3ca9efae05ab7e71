"""A run of many epochs leaks no files or processes and loses no record; `make soak` checks its memory too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forks import DBBD, Copy, Forks
from soak import missing_records, soak
from stored_runs import TASKS, StoredRuns, cases


@pytest.mark.parametrize("task", cases(["dbbd"], TASKS))
def test_many_epochs_leak_nothing_and_record_everything(
    task: str, forks: Forks, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    def begin(arguments: Sequence[str], folder: Path) -> Copy:
        return forks.start(DBBD, *arguments, folder=folder)

    result = soak(task, count(16, 300), tmp_path, begin, seconds_between=0.05)
    assert result.missing == []
    half = len(result.settled) // 2
    assert half >= 2
    # The number varies within a step; its minimum does not.
    for name in ("files", "processes"):
        early, late = (
            min(getattr(sample, name) for sample in samples)
            for samples in (result.settled[:half], result.settled[half:])
        )
        assert late <= early + 1, (name, early, late)
    report(f"{task}: {result.epochs} epochs, all records complete, no more files or processes open at the end")
    assert result.samples[0].processes >= 2, "there is no data worker"


def test_missing_records_are_found(stored_runs: StoredRuns, tmp_path: Path) -> None:
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
