"""A run folder is read as it was written, and a damaged file in it is named with its line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.core.errors import CheckpointError, ExitCode
from dbbd_cli.runs.reading import read_run

Make = Callable[..., Any]


def short(value: object) -> str:
    """A short test id: pytest puts it into the environment, which Windows limits."""
    return str(value)[:60]


def test_a_run_is_read(make_run: Make, row: Make) -> None:
    step = {"kind": "step", "epoch": 1, "step": 5, "learning_rate": 0.001, "loss": 0.9}
    folder = make_run(rows=[step, row(1, 0.7, 0.5, best=True), row(2, 0.6, 0.6, best=True), row(3, 0.8, 0.4)])
    run = read_run(folder)
    assert (run.folder, run.name, run.task, run.synthetic) == (folder, "qr", "image_classification", True)
    assert [epoch["val"]["loss"] for epoch in run.epochs] == [0.7, 0.6, 0.8]
    assert [step["loss"] for step in run.steps] == [0.9]
    assert run.best_epoch == 2


def test_real_data_is_not_called_synthetic(make_run: Make) -> None:
    assert not read_run(make_run(source="folder")).synthetic


def test_a_torn_last_line_is_dropped(make_run: Make) -> None:
    folder = make_run()
    with (folder / "history.jsonl").open("ab") as file:
        file.write(b'{"kind": "epoch", "epo\xff\x00')
    assert [row["epoch"] for row in read_run(folder).epochs] == [1, 2]


def test_non_finite_values_are_none(make_run: Make, row: Make) -> None:
    run = read_run(make_run(rows=[row(1, None, 0.5), row(2, float("nan"), 0.5), row(3, float("inf"), 0.5)]))
    assert [epoch["val"]["loss"] for epoch in run.epochs] == [None, None, None]


def test_rows_logged_again_after_a_resume_count_once(make_run: Make, row: Make) -> None:
    run = read_run(make_run(rows=[row(1, 0.7), row(2, 0.9), row(2, 0.6), row(3, 0.5)]))
    assert [(epoch["epoch"], epoch["val"]["loss"]) for epoch in run.epochs] == [(1, 0.7), (2, 0.6), (3, 0.5)]


def test_rows_of_other_kinds_are_ignored(make_run: Make, row: Make) -> None:
    assert len(read_run(make_run(rows=[{"kind": "note", "epoch": "x"}, row(1, 0.7)])).epochs) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{broken", "Expecting"),
        ("[" * 100_000, "nested"),
        ("[]", "not a history row"),
        ('{"epoch": 1}', "not a history row"),
        ('{"kind": "epoch", "epoch": "1", "step": 1}', "epoch is not a count"),
        ('{"kind": "step", "epoch": 1, "step": -1}', "step is not a count"),
        ('{"kind": "epoch", "epoch": true, "step": 1}', "epoch is not a count"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "val": [1]}', "val does not contain metrics"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "train": {"loss": "low"}, "val": {"loss": 1}}', "train loss"),
        ('{"kind": "step", "epoch": 1, "step": 1, "loss": 1e999}', "loss is not a number"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "val": {"loss": 1e308}}', "val loss is not a number"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "learning_rate": -1e308}', "learning_rate is not a number"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "learning_rate": -0.1}', "learning_rate is negative"),
        ('{"kind": "epoch", "epoch": 1, "step": 1, "learning_rate": [1]}', "learning_rate is not a number"),
        ('{"kind": "epoch", "epoch": 1e999, "step": 1}', "epoch is not a count"),
        ('{"kind": "step", "epoch": 1, "step": 1, "loss": 1' + "0" * 400 + "}", "loss is not a number"),
        ('{"kind": "step", "epoch": 1, "step": 1, "loss": 1' + "0" * 5000 + "}", "history.jsonl, line 1"),
    ],
    ids=short,
)
def test_a_damaged_line_is_named(make_run: Make, line: str, problem: str) -> None:
    folder = make_run()
    path = folder / "history.jsonl"
    path.write_text(line + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_run(folder)
    assert f"{path}, line 1: " in caught.value.message
    assert "line" in caught.value.hint
    if problem not in ("Expecting", "nested"):
        assert problem in caught.value.message
    assert caught.value.exit_code == ExitCode.CHECKPOINT


def test_a_run_without_a_finished_epoch_is_rejected(make_run: Make) -> None:
    step = {"kind": "step", "epoch": 1, "step": 5, "learning_rate": 0.001, "loss": 0.9}
    for index, rows in enumerate([[], [step]]):
        with pytest.raises(CheckpointError, match="no epoch is finished yet"):
            read_run(make_run(f"run-{index}", rows=rows))


def test_other_folders_are_rejected(make_run: Make, tmp_path: Path) -> None:
    folder = make_run()
    with pytest.raises(CheckpointError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"not a run folder: it has no config\.yaml"):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match="not a run folder"):
        read_run(folder / "history.jsonl")
    (folder / "history.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"it has no history\.jsonl"):
        read_run(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "",
        "\x00",
        "a: !!python/object/apply:os.getcwd []",
        "[" * 5000,
        "run: 1" + "0" * 100_000,
        "a: !!bool x",
        'a: !!int ""',
        "a: !!timestamp x",
        "a: &a {b: 1}\nc: *a",
        "a: &a {b: 1}\nc: {<<: [*a, *a]}",
        "a: " + "[" * 900 + "]" * 900,
        "a: [" + "1," * 10_000 + "]",
        "run: 7",
        "run: {name: [x]}",
        f"run: {{name: {'[' * 150}{']' * 150}}}",
        "task: {}",
        "data: [synthetic]",
        "data: {source: 1}",
    ],
    ids=short,
)
def test_a_damaged_config_is_named(make_run: Make, text: str) -> None:
    folder = make_run()
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_run(folder)


def test_a_config_may_omit_name_task_and_data(make_run: Make) -> None:
    folder = make_run("unnamed")
    (folder / "config.yaml").write_text("run: {name: }\ndata:\n", encoding="utf-8")
    run = read_run(folder)
    assert (run.name, run.task, run.synthetic) == ("unnamed", "", False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["config.yaml", "history.jsonl"])
def test_a_pipe_is_not_waited_for(make_run: Make, name: str) -> None:
    folder = make_run()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is not a regular file"):
        read_run(folder)
