"""All metrics of a classifier on a split, from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dbbd_cli.report.drawing import load_matplotlib

# N = samples, K = classes.

CURVE_POINTS, FEWEST_CURVE_POINTS, ALL_CURVE_POINTS = 500, 20, 100_000
"""Most and fewest points kept of each curve, and most of the curves of all classes; more would not be visible."""
MAX_CONFUSION_CLASSES = 1000
"""With more classes, the confusion matrix, which has a number for each pair, is left out."""
CALIBRATION_BINS = 15
FALSE_POSITIVE_RATES = (0.01, 0.001)


def classification_report(
    logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], positive_class: str | None
) -> dict[str, Any]:
    """Computes loss, accuracy, per-class scores, confusion matrix, ranking scores, curves and calibration.

    With two classes, ranking scores are those of the positive class; with more, the mean over classes, each against
    the rest. A class without samples has no ranking score (None) and is left out of such means. One that is not
    predicted either is left out of macro means, as in the F1 of training. With very many classes there is no confusion
    matrix (None).

    Args:
        logits: `(N, K)`.
        labels: `(N,)`.
        classes: names of the K classes.
        positive_class: the positive one of two classes; None with more.

    Returns:
        Plain values, ready for JSON.
    """
    load_matplotlib()  # TorchMetrics imports it too, and would fail on some settings of the environment
    # Imported here: it takes seconds, and only evaluation needs it.
    from torchmetrics.functional import classification as metrics

    logits, labels = logits.double().cpu(), labels.cpu()
    probabilities = F.softmax(logits, dim=1)
    predicted = logits.argmax(dim=1)
    num_classes = len(classes)
    functions = {
        "precision": metrics.multiclass_precision,
        "recall": metrics.multiclass_recall,
        "f1": metrics.multiclass_f1_score,
    }
    scores = {
        name: function(predicted, labels, num_classes, average="none").tolist() for name, function in functions.items()
    }
    support = torch.bincount(labels, minlength=num_classes)
    confusion = None
    if num_classes <= MAX_CONFUSION_CLASSES:
        confusion = metrics.multiclass_confusion_matrix(predicted, labels, num_classes).tolist()
    ranked = range(num_classes) if positive_class is None else [list(classes).index(positive_class)]
    points = min(CURVE_POINTS, max(FEWEST_CURVE_POINTS, ALL_CURVE_POINTS // len(ranked)))
    curves = [_ranking(probabilities[:, k], labels == k, classes[k], metrics, points) for k in ranked]
    areas = [curve["roc"]["auc"] for curve in curves if curve["roc"]["auc"] is not None]
    precisions = [
        curve["precision_recall"]["average_precision"]
        for curve in curves
        if curve["precision_recall"]["average_precision"] is not None
    ]
    calibration, reliability = _calibration(probabilities, predicted == labels)
    return {
        "num_samples": len(labels),
        "classes": list(classes),
        "positive_class": positive_class,
        "loss": float(F.cross_entropy(logits, labels)),
        "accuracy": float((predicted == labels).double().mean()),
        "per_class": [
            {"class": name, **{score: values[k] for score, values in scores.items()}, "support": int(support[k])}
            for k, name in enumerate(classes)
        ],
        "macro": {
            name: float(function(predicted, labels, num_classes, average="macro"))
            for name, function in functions.items()
        },
        "weighted": {score: float(np.average(values, weights=support.numpy())) for score, values in scores.items()},
        "confusion_matrix": confusion,
        "roc_auc": float(np.mean(areas)) if areas else None,
        "average_precision": float(np.mean(precisions)) if precisions else None,
        "recall_at_fpr": None if positive_class is None else curves[0]["recall_at_fpr"],
        "expected_calibration_error": calibration,
        "curves": {
            "roc": [curve["roc"] for curve in curves],
            "precision_recall": [curve["precision_recall"] for curve in curves],
            "reliability": reliability,
        },
    }


def _ranking(scores: torch.Tensor, positive: torch.Tensor, name: str, metrics: Any, points: int) -> dict[str, Any]:
    """How well the scores `(N,)` of one class put its samples above the others."""
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
    """At most so many points of a curve, evenly spread, with both ends."""
    length = len(next(iter(columns.values())))
    kept = np.unique(np.linspace(0, length - 1, min(length, points)).round().astype(int))
    return {name: [round(float(value), 6) for value in values[kept]] for name, values in columns.items()}


def _calibration(probabilities: torch.Tensor, correct: torch.Tensor) -> tuple[float, dict[str, Any]]:
    """Expected calibration error, and the reliability diagram behind it, over equal bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    confidence = probabilities.max(dim=1).values.numpy()
    hit = correct.numpy().astype(float)
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS) / count
        mean_accuracy = np.bincount(bins, hit, CALIBRATION_BINS) / count
    filled = count > 0
    error = float(np.sum(count[filled] * np.abs(mean_confidence - mean_accuracy)[filled]) / count.sum())
    return error, {
        "bin_edges": edges.tolist(),
        "confidence": [float(value) if full else None for value, full in zip(mean_confidence, filled, strict=True)],
        "accuracy": [float(value) if full else None for value, full in zip(mean_accuracy, filled, strict=True)],
        "count": count.tolist(),
    }
