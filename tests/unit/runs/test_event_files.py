"""TensorBoard shows each step of a run once, however often the run was killed and resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.runs.log import RunLog


def values_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def steps_of(folder: Path) -> dict[str, list[int]]:
    return {tag: [step for step, _ in values] for tag, values in values_of(folder).items()}


def epoch_row(step: int) -> dict[str, Any]:
    return {"kind": "epoch", "epoch": 1, "step": step, "train": {"loss": 1.0}, "val": {"loss": 1.0}}


def log_run(
    folder: Path, steps: range, *, history: Sequence[dict[str, Any]] = (), epoch: int | None = None, ended: bool = False
) -> None:
    """A process that logs steps, optionally the end of an epoch and of the run, and is then killed."""
    log = RunLog(folder, step=steps.start - 1, history=history, command=[])
    for step in steps:
        log.logged_step({"kind": "step", "step": step, "learning_rate": 0.5, "grad_norm": float(step)})
    if epoch is not None:
        log.epoch(epoch_row(epoch), 1.0)
    if ended:
        log.hyperparameters({"seed": 1}, {"loss": 1.0}, steps.stop - 1)
    log.close()


@pytest.mark.parametrize("resumed_after", [0, 1, 3, 5])
def test_entries_of_a_killed_run_after_its_checkpoint_are_purged(tmp_path: Path, resumed_after: int) -> None:
    log_run(tmp_path, range(1, 6))
    log_run(tmp_path, range(resumed_after + 1, 8))
    log_run(tmp_path, range(resumed_after + 1, 10))  # no checkpoint in between
    assert steps_of(tmp_path) == {tag: list(range(1, 10)) for tag in ("learning_rate", "train/grad_norm")}


def test_an_epoch_logged_but_not_saved_appears_once(tmp_path: Path) -> None:
    log_run(tmp_path, range(1, 4), epoch=3)
    log_run(tmp_path, range(4, 4), epoch=3)  # from a checkpoint after step 3, which did not know of the epoch's end
    values = values_of(tmp_path)
    assert values["train/grad_norm"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert values["learning_rate"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [values[tag] for tag in ("train/loss", "val/loss", "seconds_per_epoch")] == [[(3, 1.0)]] * 3
    log_run(tmp_path, range(4, 6), history=[epoch_row(3)])
    assert steps_of(tmp_path)["val/loss"] == [3]


def test_final_metrics_appear_once(tmp_path: Path) -> None:
    log_run(tmp_path, range(1, 4), ended=True)
    log_run(tmp_path, range(4, 4), ended=True)
    assert steps_of(tmp_path)["best/loss"] == [4]
    log_run(tmp_path, range(4, 8), ended=True)
    assert steps_of(tmp_path) == {"learning_rate": [*range(1, 8)], "train/grad_norm": [*range(1, 8)], "best/loss": [8]}


def test_a_clock_that_is_set_back_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    for number, seconds in enumerate((0, -5000, 7, -20)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        log_run(tmp_path, range(1 + number, 6 + number))
    assert steps_of(tmp_path)["train/grad_norm"] == list(range(1, 9))
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 4
