"""All metrics of a classifier on a split, computed from its logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dbbd_cli.report.drawing import load_matplotlib
from dbbd_cli.tasks.classification_intervals import (
    LEVEL,
    Interval,
    Resampling,
    calibration_error_interval,
    classification_intervals,
)

# N = samples, K = classes.

MAX_CURVE_POINTS, MIN_CURVE_POINTS, MAX_ALL_CURVE_POINTS = 500, 20, 100_000
"""Limits on the points kept for each curve, and for the curves of all classes together; more would not be visible."""
MAX_CONFUSION_CLASSES = 1000
"""With more classes, the confusion matrix, which has a number for each pair of classes, is omitted."""
CALIBRATION_BINS = 15
FALSE_POSITIVE_RATES = (0.01, 0.001)


def classification_report(
    logits: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[str],
    positive_class: str | None,
    resampling: Resampling | None = None,
) -> dict[str, Any]:
    """Compute loss, accuracy, per-class scores, confusion matrix, ranking scores, curves and calibration.

    With two classes, ranking scores are those of the positive class; with more, the mean over classes, each against
    the rest. A class without samples has no ranking score (None) and is left out of such means. If it is never
    predicted either, it is left out of macro means, like in the F1 of training.

    Args:
        logits: `(N, K)`.
        labels: `(N,)`.
        classes: names of the K classes.
        positive_class: the positive one of two classes; None with more.
        resampling: the resamples for intervals; None: no intervals.

    Returns:
        Plain values, ready for JSON.
    """
    load_matplotlib()  # TorchMetrics imports it too, and would fail with some settings of the environment
    logits, labels = logits.double().cpu(), labels.cpu()
    probabilities, predicted = F.softmax(logits, dim=1), logits.argmax(dim=1)
    positive = None if positive_class is None else list(classes).index(positive_class)
    calibration, reliability = calibration_of(probabilities, predicted == labels)
    ranking, curves = _rankings(probabilities, labels, classes, positive)
    report = {
        "num_samples": len(labels),
        "classes": list(classes),
        "positive_class": positive_class,
        "loss": float(F.cross_entropy(logits, labels)),
        "accuracy": float((predicted == labels).double().mean()),
        **_scores(predicted, labels, classes),
        **ranking,
        "expected_calibration_error": calibration,
        "curves": {**curves, "reliability": reliability},
    }
    if resampling is not None:
        report["intervals"] = _intervals(probabilities, labels, resampling, positive)
    return report


def _rankings(
    probabilities: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], positive: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ranking scores and curves of the positive class, or else the mean scores and the curves of all classes."""
    ranked = range(len(classes)) if positive is None else [positive]
    points = min(MAX_CURVE_POINTS, max(MIN_CURVE_POINTS, MAX_ALL_CURVE_POINTS // len(ranked)))
    found = [_ranking(probabilities[:, k], labels == k, classes[k], points) for k in ranked]
    scores = {
        "roc_auc": _mean(ranking["roc"]["auc"] for ranking in found),
        "average_precision": _mean(ranking["precision_recall"]["average_precision"] for ranking in found),
        "recall_at_fpr": None if positive is None else found[0]["recall_at_fpr"],
    }
    return scores, {curve: [ranking[curve] for ranking in found] for curve in ("roc", "precision_recall")}


def _intervals(
    probabilities: torch.Tensor, labels: torch.Tensor, resampling: Resampling, positive: int | None
) -> dict[str, Any]:
    correct = probabilities.argmax(dim=1) == labels
    return {
        "level": LEVEL,
        "resamples": resampling.resamples,
        "groups": resampling.num_groups,
        **classification_intervals(probabilities, labels, resampling, positive=positive, rates=FALSE_POSITIVE_RATES),
        "expected_calibration_error": calibration_interval(probabilities, correct, resampling),
    }


def _scores(predicted: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Precision, recall and F1 of each class and their means, and the confusion matrix."""
    # Imported here and below: it takes seconds, and only evaluation needs it.
    from torchmetrics.functional import classification as metrics

    num_classes = len(classes)
    functions = {
        "precision": metrics.multiclass_precision,
        "recall": metrics.multiclass_recall,
        "f1": metrics.multiclass_f1_score,
    }
    scores, macro, weighted = (
        {name: function(predicted, labels, num_classes, average=mean).tolist() for name, function in functions.items()}
        for mean in ("none", "macro", "weighted")
    )
    support = torch.bincount(labels, minlength=num_classes).tolist()
    confusion = None
    if num_classes <= MAX_CONFUSION_CLASSES:
        confusion = metrics.multiclass_confusion_matrix(predicted, labels, num_classes).tolist()
    return {
        "per_class": [
            {"class": name, **{score: values[k] for score, values in scores.items()}, "support": support[k]}
            for k, name in enumerate(classes)
        ],
        "macro": macro,
        "weighted": weighted,
        "confusion_matrix": confusion,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _ranking(scores: torch.Tensor, positive: torch.Tensor, name: str, points: int) -> dict[str, Any]:
    """How well the scores `(N,)` of one class rank its samples above the others."""
    from torchmetrics.functional import classification as metrics

    target = positive.long()
    if target.min() == target.max():
        return {
            "roc": {"class": name, "fpr": [], "tpr": [], "auc": None},
            "precision_recall": {"class": name, "recall": [], "precision": [], "average_precision": None},
            "recall_at_fpr": {f"{rate:g}": None for rate in FALSE_POSITIVE_RATES},
        }
    false_rate, true_rate, _ = metrics.binary_roc(scores, target)
    precision, recall, _ = metrics.binary_precision_recall_curve(scores, target)
    return {
        "roc": {
            "class": name,
            **_thinned(points, fpr=false_rate, tpr=true_rate),
            "auc": float(metrics.binary_auroc(scores, target)),
        },
        "precision_recall": {
            "class": name,
            **_thinned(points, recall=recall, precision=precision),
            "average_precision": float(metrics.binary_average_precision(scores, target)),
        },
        "recall_at_fpr": {f"{rate:g}": float(true_rate[false_rate <= rate].max()) for rate in FALSE_POSITIVE_RATES},
    }


def _thinned(points: int, **columns: torch.Tensor) -> dict[str, list[float]]:
    """At most `points` points of a curve, evenly spaced, with both ends."""
    length = len(next(iter(columns.values())))
    kept = np.unique(np.linspace(0, length - 1, min(length, points)).round().astype(int))
    return {name: [round(value, 6) for value in values[kept].tolist()] for name, values in columns.items()}


def _bins(confidence: torch.Tensor) -> torch.Tensor:
    """The bin of each confidence `(N,)`."""
    return torch.bucketize(confidence, _edges()[1:-1])


def _edges() -> torch.Tensor:
    return torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)


def calibration_of(probabilities: torch.Tensor, correct: torch.Tensor) -> tuple[float, dict[str, Any]]:
    """Expected calibration error, and the reliability diagram behind it, over equal bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", 2017. TorchMetrics computes the error, but not the diagram.
    """
    confidence = probabilities.max(dim=1).values
    edges, bins = _edges(), _bins(confidence)
    count, confidence_sum, hits = (
        torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add_(0, bins, values.double())
        for values in (torch.ones_like(confidence), confidence, correct)
    )
    error = float((confidence_sum - hits).abs().sum() / len(bins))
    means = {"confidence": confidence_sum / count, "accuracy": hits / count}
    return error, {
        "bin_edges": edges.tolist(),
        **{name: [None if math.isnan(v) else v for v in values.tolist()] for name, values in means.items()},
        "count": count.int().tolist(),
    }


def calibration_interval(probabilities: torch.Tensor, correct: torch.Tensor, resampling: Resampling) -> Interval:
    """The interval of the expected calibration error of `calibration_of`."""
    confidence = probabilities.max(dim=1).values
    return calibration_error_interval(confidence - correct.double(), _bins(confidence), resampling)
