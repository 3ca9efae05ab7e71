"""The tables of a classification report list its metrics, classes and confusion matrix, as far as measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbbd_cli.report.classification.tables import classification_tables

Make = Callable[..., Any]


def test_metrics_of_two_classes(evaluation_of: Make) -> None:
    metrics, classes, matrix, _ = classification_tables(evaluation_of(), "images")
    assert metrics.rows == (
        ("Images", "8"),
        ("Accuracy", "75.00%"),
        ("Loss", "0.5000"),
        ("Positive class", "malicious"),
        ("ROC AUC", "0.8700"),
        ("Average precision", "0.8600"),
        ("Recall at 1% FPR", "30.00%"),
        ("Recall at 0.1% FPR", "10.00%"),
        ("Calibration error", "0.0400"),
    )
    assert classes.rows[0] == ("benign", "75.00%", "75.00%", "75.00%", "4")
    assert [row[0] for row in classes.footer] == ["macro mean", "weighted mean"]
    assert matrix.columns == ("", "benign", "malicious")
    assert matrix.rows == (("benign", "3", "1"), ("malicious", "1", "3"))
    assert matrix.short_names == ("1 benign", "2 malicious")


def test_classes_are_ranked_by_f1(evaluation_of: Make) -> None:
    evaluation = evaluation_of(["a", "b", "c"])
    for row, f1 in zip(evaluation["per_class"], (0.5, None, 0.25), strict=True):
        row["f1"] = f1
    assert classification_tables(evaluation, "images")[1].ranking == (2, 0, 1)


def test_many_classes_have_no_matrix_and_missing_parts_no_table(evaluation_of: Make) -> None:
    many = classification_tables(evaluation_of([f"c{index}" for index in range(11)]), "images")
    assert [section.title for section in many] == ["Metrics", "Classes", "Efficiency"]
    (metrics,) = classification_tables({"format": 1, "loss": 0.5}, "images")
    assert metrics.rows == (("Loss", "0.5000"),)


def test_intervals_stand_beside_the_metrics(evaluation_of: Make) -> None:
    intervals = {
        "level": 0.95,
        "groups": 8,
        "group": "hosts",
        "accuracy": [0.5, 0.9],
        "f1": [0.4, 0.8],
        "roc_auc": None,
        "recall_at_fpr": {"0.01": [0.1, 0.5], "0.001": None},
    }
    (metrics, *_) = classification_tables({**evaluation_of(), "intervals": intervals}, "URLs")
    assert metrics.title == "Metrics, with 95% intervals over 8 hosts"
    assert ("Accuracy", "75.00% (50.00% to 90.00%)") in metrics.rows
    assert ("Mean F1", "75.00% (40.00% to 80.00%)") in metrics.rows
    assert ("ROC AUC", "0.8700") in metrics.rows
    assert ("Recall at 1% FPR", "30.00% (10.00% to 50.00%)") in metrics.rows
    assert ("Recall at 0.1% FPR", "10.00%") in metrics.rows
