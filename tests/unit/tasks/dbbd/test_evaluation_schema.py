"""The evaluation of DBBD is accepted as it is written, and a damaged one is rejected with the wrong key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dbbd_cli.report.evaluation import evaluation_problem
from dbbd_cli.tasks.dbbd.evaluation_schema import DbbdEvaluation

Make = Callable[..., Any]


def test_complete_and_partial_evaluations_are_accepted(pretraining_of: Make) -> None:
    whole = pretraining_of()
    nulls = pretraining_of()
    for entry in nulls["contrast"]:
        entry |= dict.fromkeys(("rows", "loss", "chance", "top1"))
    for entry in nulls["probe"]["features"]:
        entry |= dict.fromkeys(("dim", "miou", "mean_accuracy", "overall_accuracy"))
    for curve in nulls["label_efficiency"]["curves"]:
        for point in curve["points"]:
            point |= dict.fromkeys(("draws", "miou", "std", "low", "high"))
    labels = [{"label": 255, "points": 1204}, {"label": None, "points": 2}]
    for evaluation in (
        whole,
        nulls,
        {"format": 1},
        dict.fromkeys(whole) | {"format": 1},
        {**whole, "probe": None, "probe_missing": "the scenes have no labels", "scene": {}},
        {**whole, "ignored_labels": labels},
    ):
        assert evaluation_problem(evaluation, DbbdEvaluation) == ""


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("num_points", -1, "num_points"),
        ("region_loss", "low", "region_loss"),
        ("point_loss", 1e308, "point_loss"),
        ("contrast", [[]], "contrast"),
        ("contrast", [{"name": "x"}] * 65, "contrast"),
        ("contrast.0.name", None, "contrast"),
        ("contrast.0.rows", -1, "contrast"),
        ("contrast.1.top1", 1.5, "contrast"),
        ("probe.classes", ["floor"], "probe"),
        ("probe.features.0.miou", 2, "probe"),
        ("probe.features.1.per_class_iou", None, "probe"),
        ("probe.features.1.per_class_iou", [0.5], "probe"),
        ("probe_missing", 7, "probe_missing"),
        ("label_efficiency.curves.0.points.0.scenes", -1, "label_efficiency"),
        ("label_efficiency.curves.0.points.0.std", -0.1, "label_efficiency"),
        ("label_efficiency.curves.0.points.0.high", 1.5, "label_efficiency"),
        ("label_efficiency.curves", None, "label_efficiency"),
        ("encoded.features.0.r2", [0.5], "encoded"),
        ("encoded.features.0.r2.1", "high", "encoded"),
        ("scene.classes", "floor", "scene"),
        ("ignored_labels", [{"label": 255}], "ignored_labels.0.points"),
        ("ignored_labels", [{"label": "255", "points": 1}], "ignored_labels.0.label"),
    ],
)
def test_a_wrong_value_is_named(
    pretraining_of: Make, put: Callable[..., None], key: str, value: object, problem: str
) -> None:
    evaluation = pretraining_of()
    put(evaluation, key, value)
    assert evaluation_problem(evaluation, DbbdEvaluation).startswith(problem)
