"""The logs of a run hold each step and epoch once, in step with its checkpoint, however often it was killed."""

from __future__ import annotations

from pathlib import Path

from dbbd_cli.runs.log import RunLog
from unit.engine.line_workload import LineWorkload, train


def test_history_follows_the_checkpoint(tmp_path: Path) -> None:
    history = train(LineWorkload(), tmp_path, epochs=2).state.history
    path = tmp_path / "history.jsonl"
    whole = path.read_text().splitlines()
    with path.open("a") as file:  # as a run leaves it that is killed between checkpoints
        file.write('{"kind": "step", "epoch": 3, "step": 7}\n{"kind": "step", "ep')
    RunLog(tmp_path, step=6, history=history, command=[]).close()
    assert path.read_text().splitlines() == whole
    RunLog(tmp_path, step=6, history=history[:1], command=[]).close()  # epoch 2 was trained but not validated
    assert path.read_text().splitlines() == whole[:-1]
    path.unlink()
    RunLog(tmp_path, step=6, history=history, command=[]).close()
    assert path.read_text().splitlines() == [line for line in whole if '"epoch", ' in line]


def test_the_events_hold_the_promised_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(LineWorkload(), tmp_path, epochs=2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "learning_rate"} <= tags
    assert len(events.Scalars("val/loss")) == 2


def test_invalid_lines_of_the_history_do_not_keep_a_run_from_resuming(tmp_path: Path) -> None:
    nested = '{"kind": "step", "step": 1, "x": ' + "[" * 900 + "]" * 900 + "}"
    good = '{"kind": "step", "step": 2}'
    (tmp_path / "history.jsonl").write_text("\n".join([nested, "torn {", '{"kind": "step", "step": "3"}', good, ""]))
    RunLog(tmp_path, step=6, history=[], command=[]).close()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert good in lines
    assert "torn {" not in lines
