"""Figures of a classification report: confusion matrix, ROC, precision and recall, reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.classification.confusion import confusion_matrix
from dbbd_cli.report.classification.corruptions import corruption_figure
from dbbd_cli.report.style import GRID, INK, MUTED, PAPER, SERIES, add_legend, drawable, headed_figure
from dbbd_cli.report.text import number, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More curves than this are hard to tell apart.
_MAX_CURVES = 7
# Most curves for which the legend fits inside the axes.
_MAX_INSIDE = 2


def classification_figures(evaluation: Mapping[str, Any]) -> dict[str, Callable[[], Figure]]:
    """Functions that draw what an evaluation has of `confusion_matrix`, `roc`, `precision_recall`,
    `reliability` and `corruptions`.

    Args:
        evaluation: the content of `evaluation.json`; see `ClassificationEvaluation`.
    """
    curves = evaluation.get("curves") or {}
    facts = _facts(evaluation)
    warning = "synthetic data" if evaluation.get("synthetic") else ""
    drawings: dict[str, Callable[[], Figure]] = {}
    if evaluation.get("confusion_matrix"):
        drawings["confusion_matrix"] = partial(confusion_matrix, evaluation, facts, warning)
    for name, drawing in (("roc", _roc), ("precision_recall", _precision_recall), ("reliability", _reliability)):
        if curves.get(name):
            drawings[name] = partial(drawing, evaluation, curves[name], facts, warning)
    if evaluation.get("corruptions"):
        drawings["corruptions"] = partial(corruption_figure, evaluation, warning)
    return drawings


def _facts(evaluation: Mapping[str, Any]) -> list[str]:
    facts = [f"{drawable(evaluation['split'], 20)} split"] if evaluation.get("split") else []
    if evaluation.get("num_samples") is not None:
        facts.append(counted(evaluation["num_samples"], "sample"))
    return facts


def _roc(evaluation: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], facts: list[str], warning: str) -> Figure:
    mean = "AUC" if len(curves) == 1 else "mean AUC"
    fact = f"{mean} {number(evaluation.get('roc_auc'), 3)}"
    figure, axes = _unit_square("ROC curve", [*facts, fact], warning, len(curves))
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    entries: list[tuple[str, Artist]] = []
    for color, curve in zip(SERIES, _worst(curves, "auc"), strict=False):
        (line,) = axes.plot(curve["fpr"], curve["tpr"], color=color)
        entries.append((f"{drawable(curve['class'], 28)} (AUC {number(curve['auc'], 3)})", line))
    (chance,) = axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    entries.append(("chance level", chance))
    recalls = sorted((float(rate), recall) for rate, recall in (evaluation.get("recall_at_fpr") or {}).items())
    for marker, (rate, recall) in zip("Dos^v", recalls, strict=False):
        if recall is not None:
            (point,) = axes.plot([rate], [recall], marker, color=INK, markersize=6, clip_on=False, zorder=3)
            entries.append((f"recall {percent(recall)} at {100 * rate:g}% FPR", point))
    _add_curve_legend(axes, entries, len(curves), "AUC", "lower right")
    return figure


def _precision_recall(
    evaluation: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], facts: list[str], warning: str
) -> Figure:
    mean = "average precision" if len(curves) == 1 else "mean average precision"
    fact = f"{mean} {number(evaluation.get('average_precision'), 3)}"
    figure, axes = _unit_square("Precision-recall curve", [*facts, fact], warning, len(curves))
    axes.set(xlabel="Recall", ylabel="Precision")
    entries: list[tuple[str, Artist]] = []
    for color, curve in zip(SERIES, _worst(curves, "average_precision"), strict=False):
        recall = curve["recall"]
        # Between two thresholds, precision is that of the higher recall: straight lines would be too optimistic.
        rising = recall[0] <= recall[-1]
        (line,) = axes.plot(recall, curve["precision"], color=color, drawstyle="steps-pre" if rising else "steps-post")
        entries.append((f"{drawable(curve['class'], 28)} (AP {number(curve['average_precision'], 3)})", line))
    support = {row["class"]: row["support"] for row in evaluation.get("per_class") or []}
    if len(curves) == 1 and sum(support.values()):
        share = support.get(curves[0]["class"], 0) / sum(support.values())
        (chance,) = axes.plot([0, 1], [share, share], color=MUTED, linewidth=1, linestyle=":")
        entries.append((f"chance level ({percent(share)} of the samples)", chance))
    _add_curve_legend(axes, entries, len(curves), "average precision", "lower left")
    return figure


def _reliability(evaluation: Mapping[str, Any], bins: Mapping[str, Any], facts: list[str], warning: str) -> Figure:
    from matplotlib.ticker import PercentFormatter

    fact = f"expected calibration error {number(evaluation.get('expected_calibration_error'), 3)}"
    figure = headed_figure((7.0, 7.0), "Reliability diagram", [*facts, fact], warning=warning)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    points = [
        (confidence, accuracy)
        for confidence, accuracy in zip(bins["confidence"], bins["accuracy"], strict=True)
        if confidence is not None and accuracy is not None
    ]
    confidences, accuracies = [list(values) for values in zip(*points, strict=True)] or [[], []]
    (ideal,) = upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    gaps = upper.vlines(confidences, confidences, accuracies, color=SERIES[1], linewidth=3, alpha=0.45)
    (line,) = upper.plot(confidences, accuracies, "o-", color=SERIES[0], markersize=5)
    entries: list[tuple[str, Artist]] = [("accuracy in the bin", line), ("gap", gaps), ("perfectly calibrated", ideal)]
    add_legend(upper, entries, loc="best")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    total = max(sum(bins["count"]), 1)
    edges = bins["bin_edges"]
    widths = [right - left for left, right in pairwise(edges)]
    shares = [count / total for count in bins["count"]]
    lower.bar(edges[:-1], shares, widths, align="edge", color=SERIES[0], alpha=0.6, edgecolor=PAPER, linewidth=0.8)
    lower.set(xlabel="Confidence", ylabel="Share of samples")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _unit_square(title: str, facts: list[str], warning: str, num_curves: int) -> tuple[Figure, Axes]:
    from matplotlib.ticker import PercentFormatter

    # Leave room next to the axes for a legend that would hide too much inside them.
    figure = headed_figure((7.0 if num_curves <= _MAX_INSIDE else 10.4, 7.0), title, facts, warning=warning)
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal", anchor="W")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure, axes


def _worst(curves: Sequence[Mapping[str, Any]], score: str) -> list[Mapping[str, Any]]:
    """The curves to draw: all, or the lowest-scoring ones if there are too many, in the order of the classes."""
    drawn = [index for index, curve in enumerate(curves) if curve[score] is not None]
    lowest = sorted(drawn, key=lambda index: curves[index][score])[:_MAX_CURVES]
    return [curves[index] for index in sorted(lowest)]


def _add_curve_legend(
    axes: Axes, entries: Sequence[tuple[str, Artist]], num_curves: int, score: str, corner: str
) -> None:
    if num_curves <= _MAX_INSIDE:
        add_legend(axes, entries, loc=corner, frameon=True, facecolor=PAPER, edgecolor=GRID, framealpha=0.9)
        return
    legend = add_legend(axes, entries, loc="upper left", bbox_to_anchor=(1.02, 1.0), alignment="left")
    if num_curves > _MAX_CURVES:
        legend.set_title(f"The {_MAX_CURVES} of {num_curves:,} classes\nwith the lowest {score}")
