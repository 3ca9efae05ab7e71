"""Names from data are shown safely and distinctly, and numbers in a fixed format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbbd_cli.report.text import (
    count,
    describe_metric,
    megabytes,
    number,
    percent,
    run_labels,
    share,
    significant,
    task_title,
    words,
)
from dbbd_cli.runs.reading import read_run

Make = Callable[..., Any]


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


def test_metric_names_become_words() -> None:
    titles = {"accuracy": "Accuracy", "f1": "F1", "miou": "mIoU", "roc_auc": "ROC AUC", "top1_level_2": "Top-1 level 2"}
    assert {name: words(name) for name in titles} == titles
    assert task_title("image_classification") == "Image classification"
    assert task_title("url_classification") == "URL classification"
    assert task_title("dbbd") == "dbbd"


def test_shares_are_percentages() -> None:
    values = {"point_top1": 0.3125, "top1_level_2": 0.5, "accuracy": 0.5, "f1": 0.5, "loss_level_2": 0.5}
    assert [describe_metric(*pair) for pair in values.items()] == ["31.25%", *["50.00%"] * 3, "0.5000"]


def test_numbers_have_a_fixed_format_at_any_magnitude() -> None:
    assert [number(value) for value in (0.69314, 0.0, 1.234e-5, 1e100, -2.5, None)] == [
        "0.6931", "0.0000", "1.234e-05", "1.000e+100", "-2.5000", "-",
    ]  # fmt: skip
    assert number(8.3178, 2) == "8.32"
    assert [megabytes(value) for value in (196.61, 12_000, None)] == ["196.61 MB", "11.72 GB", "-"]
    assert (count(51_539_906), count(None)) == ("51,539,906", "-")
    assert (percent(0.8013), share(0.8013), percent(None)) == ("80.1%", "80.13%", "-")
    assert [significant(value) for value in (6.54321, 0.00123456, 168_000.4, None)] == [
        "6.543", "0.001235", "168,000", "-",
    ]  # fmt: skip
