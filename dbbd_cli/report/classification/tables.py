"""The tables of a classification report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dbbd_cli.report.classification.corruptions import corruption_tables
from dbbd_cli.report.tables import Section, Table, Values, efficiency, measured, ranked
from dbbd_cli.report.text import count, number, share

_SCORES = ("precision", "recall", "f1")
_MAX_MATRIX = 10
"""Most classes of a confusion matrix that is shown as a table."""


def classification_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """The metrics, the scores of each class, the confusion matrix of a few classes, and the efficiency.

    Args:
        evaluation: the content of `evaluation.json`; see `ClassificationEvaluation`.
        sample_unit: what samples are called, such as images.
    """
    metrics = measured(
        evaluation,
        [
            ("num_samples", sample_unit.capitalize(), count),
            ("accuracy", "Accuracy", share),
            ("loss", "Loss", number),
            ("positive_class", "Positive class", str),
            ("roc_auc", "ROC AUC", number),
            ("average_precision", "Average precision", number),
        ],
    )
    for rate, recall in (evaluation.get("recall_at_fpr") or {}).items():
        if recall is not None:
            metrics.append((f"Recall at {100 * float(rate):g}% FPR", share(recall)))
    metrics += measured(evaluation, [("expected_calibration_error", "Calibration error", number)])
    return [
        Values("Metrics", tuple(metrics)),
        *_classes(evaluation),
        *_confusion_matrix(evaluation),
        *corruption_tables(evaluation),
        *efficiency(evaluation.get("efficiency"), sample_unit),
    ]


def _classes(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    rows = evaluation.get("per_class") or []
    if not rows:
        return
    means = [(name, evaluation.get(name)) for name in ("macro", "weighted")]
    yield Table(
        "Classes",
        ("Class", "Precision", "Recall", "F1", "Support"),
        tuple((row["class"], *_scores(row), count(row["support"])) for row in rows),
        short_columns=("Class", "Prec.", "Recall", "F1", "Count"),
        footer=tuple((f"{name} mean", *_scores(scores), "") for name, scores in means if scores),
        lowest="F1",
        ranking=ranked([row.get("f1") for row in rows]),
    )


def _scores(row: Mapping[str, Any]) -> list[str]:
    return [share(row.get(key)) for key in _SCORES]


def _confusion_matrix(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    names, matrix = evaluation.get("classes") or [], evaluation.get("confusion_matrix") or []
    if not matrix or len(names) > _MAX_MATRIX:
        return
    numbers = [str(index) for index in range(1, len(names) + 1)]
    yield Table(
        "Confusion matrix (rows: true class, columns: predicted class)",
        ("", *names),
        tuple((name, *map(count, row)) for name, row in zip(names, matrix, strict=True)),
        short_columns=("", *numbers),
        short_names=tuple(f"{number} {name}" for number, name in zip(numbers, names, strict=True)),
        must_fit=True,
    )
