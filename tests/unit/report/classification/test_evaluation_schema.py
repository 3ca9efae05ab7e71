"""The evaluation of a classifier is accepted as it is written, and a damaged one is rejected with the wrong key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.evaluation import evaluation_problem

Make = Callable[..., Any]


def test_complete_and_partial_evaluations_are_accepted(evaluation_of: Make) -> None:
    whole = evaluation_of()
    for evaluation in (
        whole,
        evaluation_of(["a", "b", "c"], absent=[1]),
        {"format": 1},
        dict.fromkeys(whole) | {"format": 1},
        {**whole, "curves": {"roc": None, "precision_recall": None, "reliability": None}},
    ):
        assert evaluation_problem(evaluation, ClassificationEvaluation) == ""


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("accuracy", "high", "accuracy"),
        ("classes", ["a", 1], "classes"),
        ("classes", ["a"], "confusion_matrix does not match classes"),
        ("confusion_matrix", [[1, 2]], "confusion_matrix does not match classes"),
        ("confusion_matrix", [[1, 2], [3]], "confusion_matrix does not match classes"),
        ("confusion_matrix", [[1, -2], [3, 4]], "confusion_matrix"),
        ("confusion_matrix.0.0", 0.5, "confusion_matrix"),
        ("per_class.0.support", None, "per_class"),
        ("recall_at_fpr", {"often": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"nan": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"0.01": None, "1e-2": 0.5}, "recall_at_fpr"),
        ("recall_at_fpr", {"0.01": 2}, "recall_at_fpr"),
        ("accuracy", -0.1, "accuracy"),
        ("roc_auc", 1.1, "roc_auc"),
        ("macro", {"class": 1}, "macro"),
        ("intervals", {"accuracy": [0.5]}, "intervals.accuracy"),
        ("intervals", {"accuracy": [0.6, 0.5]}, "intervals.accuracy"),
        ("intervals", {"roc_auc": [0.5, 1.5]}, "intervals.roc_auc"),
        ("intervals", {"recall_at_fpr": {"0.01": [0.1, 0.2], "1e-2": None}}, "intervals.recall_at_fpr"),
        ("calibration", {"temperature": 1e200}, "calibration.temperature"),
        ("calibration", {"at_threshold": {"recall": {"value": 2.0}}}, "calibration.at_threshold.recall"),
        ("baselines", [{"name": "n-grams"}], "baselines.0.accuracy"),
        ("baselines", [{"name": "x", "accuracy": 0.5}] * 65, "baselines"),
        ("baselines", [{"name": "x", "accuracy": 0.5, "lead_interval": [-2.0, 0.0]}], "baselines.0.lead_interval"),
        ("errors", [{"sample": "a", "class": "b", "predicted": 1, "probability": 0.5}], "errors.0.predicted"),
        ("shared_with_training", {"samples": -1}, "shared_with_training"),
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
)
def test_a_wrong_value_is_named(
    evaluation_of: Make, put: Callable[..., None], key: str, value: object, problem: str
) -> None:
    evaluation = evaluation_of()
    put(evaluation, key, value)
    found = evaluation_problem(evaluation, ClassificationEvaluation)
    assert problem.replace("\\", "") in found
