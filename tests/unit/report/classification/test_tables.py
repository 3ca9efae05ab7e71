"""The tables of a classification report list its metrics, classes and confusion matrix, as far as measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dbbd_cli.report.classification.tables import classification_tables
from dbbd_cli.report.tables import Note

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


CALIBRATION = {
    "split": "val",
    "num_samples": 40,
    "temperature": 1.5,
    "positive_class": "malicious",
    "false_positive_rate": 0.01,
    "threshold": 0.9,
    "achieved": {"rate": 0.005, "low": 0.0, "high": 0.1},
    "bias": [-0.2, 0.3],
    "loss": 0.4,
    "before": {"accuracy": 0.5, "expected_calibration_error": 0.05, "interval": [0.03, 0.07]},
    "at_threshold": {
        "false_positive_rate": {"value": 0.25, "interval": [0.1, 0.6]},
        "recall": {"value": 0.5, "interval": None},
    },
}


def test_calibration_and_what_the_threshold_is_worth(evaluation_of: Make) -> None:
    evaluation = {**evaluation_of(), "calibration": CALIBRATION}
    calibration = classification_tables(evaluation, "URLs")[1]
    assert calibration.title == "Calibration, fitted on 40 validation URLs"
    assert calibration.rows == (
        ("Temperature", "1.500"),
        ("Bias toward malicious", "0.500"),
        ("Accuracy", "50.00% before, 75.00% after"),
        ("Loss", "0.5000 before, 0.4000 after"),
        ("Calibration error before", "0.0500 (0.0300 to 0.0700)"),
        ("Calibration error after", "0.0400"),
        ("Threshold for 1% FPR", "0.9000"),
        ("FPR on validation", "0.50% (0.00% to 10.00%)"),
        ("FPR on these URLs", "25.00% (10.00% to 60.00%)"),
        ("Recall on these URLs", "50.00%"),
    )
    warning = classification_tables({**evaluation, "split": "val"}, "URLs")[2]
    assert isinstance(warning, Note)
    assert "fitted on this very split" in warning.text


def test_baselines_that_are_as_good_are_named(evaluation_of: Make) -> None:
    rows = [
        {"name": "most frequent class", "accuracy": 0.5, "lead": 0.25, "lead_interval": [0.1, 0.4]},
        {
            "name": "rule: scheme",
            "accuracy": 0.8,
            "accuracy_interval": [0.6, 0.9],
            "lead": -0.05,
            "lead_interval": [-0.2, 0.1],
            "is_shortcut": True,
        },
    ]
    _, table, note, shortcuts, *_ = classification_tables({**evaluation_of(), "baselines": rows}, "URLs")
    assert table.rows == (
        ("most frequent class", "50.0%", "-", "+25.0 (+10.0 to +40.0)"),
        ("rule: scheme", "80.0% (60.0% to 90.0%)", "-", "-5.0 (-20.0 to +10.0)"),
        ("network", "75.0%", "0.870", ""),
    )
    assert note.text == "The network is not clearly better than: rule: scheme."
    assert "shortcuts: scheme (80.0%); dbbd inspect says what to do." in shortcuts.text
    beaten = classification_tables({**evaluation_of(), "baselines": rows[:1]}, "URLs")
    assert not any(isinstance(part, Note) for part in beaten)


def test_errors_and_samples_shared_with_training(evaluation_of: Make) -> None:
    errors = [{"sample": "x" * 300, "class": "benign", "predicted": "malicious", "probability": 0.987}]
    evaluation = {**evaluation_of(), "errors": errors, "shared_with_training": {"samples": 2, "hosts": 5}}
    sections = classification_tables(evaluation, "URLs")
    assert sections[1] == Note("2 of 8 URLs are also in the training split, and 5 have a host from it.", warning=True)
    (table,) = [part for part in sections if part.title == "Most confident errors"]
    assert table.columns == ("URL", "Class", "Predicted", "Probability")
    (row,) = table.rows
    assert (len(row[0]), row[1:]) == (100, ("benign", "malicious", "98.7%"))
