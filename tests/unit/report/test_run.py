from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.core.errors import CheckpointError, ExitCode
from dbbd_cli.report.run import read_evaluation, read_run, run_labels

Make = Callable[..., Any]


def short(value: object) -> str:
    """The name of a parameter: pytest puts it into the environment, which Windows keeps short."""
    return str(value)[:60]


def test_a_run_is_read(make_run: Make, row: Make) -> None:
    step = {"kind": "step", "epoch": 1, "step": 5, "learning_rate": 0.001, "loss": 0.9}
    folder = make_run(rows=[step, row(1, 0.7, 0.5, best=True), row(2, 0.6, 0.6, best=True), row(3, 0.8, 0.4)])
    run = read_run(folder)
    assert (run.folder, run.name, run.task, run.synthetic) == (folder, "qr", "image_classification", True)
    assert [epoch["val"]["loss"] for epoch in run.epochs] == [0.7, 0.6, 0.8]
    assert [step["loss"] for step in run.steps] == [0.9]
    assert run.best_epoch == 2


def test_real_data_are_not_called_synthetic(make_run: Make) -> None:
    assert not read_run(make_run(source="folder")).synthetic


def test_a_torn_last_line_is_left_out(make_run: Make) -> None:
    folder = make_run()
    with (folder / "history.jsonl").open("ab") as file:
        file.write(b'{"kind": "epoch", "epo\xff\x00')
    assert [row["epoch"] for row in read_run(folder).epochs] == [1, 2]


def test_values_that_are_not_finite_are_none(make_run: Make, row: Make) -> None:
    run = read_run(make_run(rows=[row(1, None, 0.5), row(2, float("nan"), 0.5), row(3, float("inf"), 0.5)]))
    assert [epoch["val"]["loss"] for epoch in run.epochs] == [None, None, None]


def test_what_a_resumed_run_logged_again_counts_once(make_run: Make, row: Make) -> None:
    run = read_run(make_run(rows=[row(1, 0.7), row(2, 0.9), row(2, 0.6), row(3, 0.5)]))
    assert [(epoch["epoch"], epoch["val"]["loss"]) for epoch in run.epochs] == [(1, 0.7), (2, 0.6), (3, 0.5)]


def test_rows_of_other_kinds_are_left_out(make_run: Make, row: Make) -> None:
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
        ('{"kind": "epoch", "epoch": 1, "step": 1, "val": [1]}', "val does not hold metrics"),
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


def test_without_a_finished_epoch_there_is_nothing_to_show(make_run: Make) -> None:
    step = {"kind": "step", "epoch": 1, "step": 5, "learning_rate": 0.001, "loss": 0.9}
    for index, rows in enumerate([[], [step]]):
        with pytest.raises(CheckpointError, match="no epoch has ended"):
            read_run(make_run(f"run-{index}", rows=rows))


def test_what_is_not_a_run_folder_is_refused(make_run: Make, tmp_path: Path) -> None:
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


def test_a_config_may_leave_out_what_is_shown(make_run: Make) -> None:
    folder = make_run("unnamed")
    (folder / "config.yaml").write_text("run: {name: }\ndata:\n", encoding="utf-8")
    run = read_run(folder)
    assert (run.name, run.task, run.synthetic) == ("unnamed", "", False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["config.yaml", "history.jsonl", "evaluation.json"])
def test_a_pipe_is_not_waited_for(make_run: Make, name: str) -> None:
    folder = make_run()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is not a regular file"):
        (read_evaluation if name == "evaluation.json" else read_run)(folder)


def test_labels_tell_runs_apart(make_run: Make) -> None:
    a, b, c = (read_run(make_run(folder, name=name)) for folder, name in [("a", "qr"), ("b", "qr"), ("c", "other")])
    assert run_labels([a, b, c]) == ["a", "b", "other"]
    d = read_run(make_run("elsewhere/a", name="qr"))
    assert run_labels([a, b, d]) == ["a", "b", "a (2)"]
    long = [read_run(make_run(f"{i}", name="x" * 50 + f"{i}" + "y" * 50)) for i in range(2)]
    labels = run_labels(long)
    assert len(set(labels)) == 2
    assert max(map(len, labels)) <= 44


def test_names_with_control_characters_are_escaped(make_run: Make) -> None:
    assert run_labels([read_run(make_run(name="a\x1b[31m\nb\u202e"))]) == ["a\\x1b[31m\\nb\\u202e"]


def test_an_evaluation_is_read_where_there_is_one(make_run: Make, evaluation_of: Make) -> None:
    folder = make_run()
    assert read_evaluation(folder) is None
    if os.name != "nt":  # links need a privilege there
        (folder / "evaluation.json").symlink_to("x" * 300)
        assert read_evaluation(folder) is None
        (folder / "evaluation.json").unlink()
    for evaluation in (evaluation_of(), evaluation_of(["a", "b", "c"], absent=[1]), {"format": 1, "task": "other"}):
        (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
        assert read_evaluation(folder) == evaluation


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(evaluation: dict[str, Any]) -> None:
        *parents, last = key.split(".")
        place: Any = evaluation
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("format", 2, "format is 2"),
        ("num_samples", "many", "num_samples"),
        ("accuracy", "high", "accuracy"),
        ("classes", ["a", 1], "classes"),
        ("classes", ["a"], "does not fit"),
        ("confusion_matrix", [[1, 2]], "does not fit"),
        ("confusion_matrix", [[1, 2], [3]], "does not fit"),
        ("confusion_matrix", [[1, -2], [3, 4]], "confusion_matrix"),
        ("confusion_matrix.0.0", 0.5, "confusion_matrix"),
        ("per_class.0.support", None, "per_class"),
        ("recall_at_fpr", {"often": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"nan": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"0.01": None, "1e-2": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"0.01": 2}, "recall_at_fpr"),
        ("format", [[]], "format is unknown"),
        ("format", 10**4000, "format is unknown"),
        ("synthetic", "no", "synthetic"),
        ("num_samples", 2**60, "num_samples"),
        ("loss", 1e308, "loss"),
        ("loss", 10**4000, "loss"),
        ("loss", float("1e999"), "loss"),
        ("accuracy", -0.1, "accuracy"),
        ("roc_auc", 1.1, "roc_auc"),
        ("macro", {"class": 1}, "macro"),
        ("macro", {"support": 1}, "macro"),
        ("weighted", {"recall": "all"}, "weighted"),
        ("per_class.0.recall", [], "per_class"),
        ("per_class.0.other", 1, "per_class"),
        ("curves.roc.0.fpr", [0, 0.5, 1e99], r"curves\.roc"),
        ("curves.reliability.bin_edges", [0.0, 0.5, 1e99], r"curves\.reliability"),
        ("curves", [], "curves"),
        ("curves.roc.0.fpr", [0, 1], r"curves\.roc"),
        ("curves.roc.0.tpr", [], r"curves\.roc"),
        ("curves.roc.0.class", 7, r"curves\.roc"),
        ("curves.precision_recall.0.recall", "all", r"curves\.precision_recall"),
        ("curves.reliability.count", [1], r"curves\.reliability"),
        ("curves.reliability.bin_edges", [0.0, 1.0], r"curves\.reliability"),
        ("curves.reliability.confidence", ["x", 0.5], r"curves\.reliability"),
    ],
    ids=short,
)
def test_a_damaged_evaluation_is_named(
    make_run: Make, evaluation_of: Make, key: str, value: object, problem: str
) -> None:
    folder = make_run()
    evaluation = evaluation_of()
    _set(key, value)(evaluation)
    text = json.dumps(evaluation).replace("Infinity", "1e999")
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_evaluation(folder)
    assert "evaluation.json" in caught.value.message
    assert "dbbd evaluate" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000], ids=short)
def test_an_evaluation_that_is_not_json_is_named(make_run: Make, text: str) -> None:
    folder = make_run()
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"evaluation\.json"):
        read_evaluation(folder)
