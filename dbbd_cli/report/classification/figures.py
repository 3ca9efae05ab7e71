"""Figures of a classification report: confusion matrix, ROC, precision and recall, reliability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.classification.confusion import confusion_matrix
from dbbd_cli.report.classification.corruptions import corruption_figure
from dbbd_cli.report.classification.gallery import error_gallery
from dbbd_cli.report.style import GRID, INK, MUTED, PAPER, SERIES, WARNING, add_legend, drawable, headed_figure
from dbbd_cli.report.text import number, percent, with_interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

# More curves than this are hard to tell apart.
_MAX_CURVES = 7
# Most curves for which the legend fits inside the axes.
_MAX_INSIDE = 2


def classification_figures(
    evaluation: Mapping[str, Any], pictures: ndarray | None = None
) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the figures of a classifier, by name, as far as there is data.

    Args:
        evaluation: the content of `evaluation.json`; see `ClassificationEvaluation`.
        pictures: those of the most confident errors, as returned by `read_pictures`; None if there are none.
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
    if evaluation.get("baselines"):
        drawings["baselines"] = partial(_baselines, evaluation, evaluation["baselines"], facts, warning)
    errors = evaluation.get("errors") or []
    if pictures is not None and errors:
        drawings["errors"] = partial(error_gallery, errors, pictures, facts, warning)
    return drawings


def _facts(evaluation: Mapping[str, Any]) -> list[str]:
    facts = [f"{drawable(evaluation['split'], 20)} split"] if evaluation.get("split") else []
    if evaluation.get("data"):
        facts.append(drawable(PurePath(evaluation["data"]).name, 24))
    if evaluation.get("num_samples") is not None:
        facts.append(counted(evaluation["num_samples"], "sample"))
    return facts


def _with_interval(evaluation: Mapping[str, Any], key: str) -> str:
    return with_interval(evaluation.get(key), (evaluation.get("intervals") or {}).get(key), partial(number, digits=3))


def _roc(evaluation: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], facts: list[str], warning: str) -> Figure:
    mean = "AUC" if len(curves) == 1 else "mean AUC"
    fact = f"{mean} {_with_interval(evaluation, 'roc_auc')}"
    figure, axes = _unit_square("ROC curve", [*facts, fact], warning, len(curves))
    axes.set(xlabel="False positive rate", ylabel="True positive rate")
    entries: list[tuple[str, Artist]] = []
    for color, curve in zip(SERIES, _worst(curves, "auc"), strict=False):
        (line,) = axes.plot(curve["fpr"], curve["tpr"], color=color)
        entries.append((f"{drawable(curve['class'], 28)} (AUC {number(curve['auc'], 3)})", line))
    (chance,) = axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    entries.append(("chance level", chance))
    intervals = (evaluation.get("intervals") or {}).get("recall_at_fpr") or {}
    recalls = sorted((float(rate), recall) for rate, recall in (evaluation.get("recall_at_fpr") or {}).items())
    for marker, (rate, recall) in zip("Dos^v", recalls, strict=False):
        if recall is not None:
            (point,) = axes.plot([rate], [recall], marker, color=INK, markersize=6, clip_on=False, zorder=3)
            bounds = intervals.get(f"{rate:g}")
            if bounds is not None:
                axes.vlines(rate, *bounds, color=INK, linewidth=1.2, clip_on=False)
            entries.append((f"recall {with_interval(recall, bounds, percent)} at {100 * rate:g}% FPR", point))
    _add_curve_legend(axes, entries, len(curves), "AUC", "lower right")
    return figure


def _precision_recall(
    evaluation: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], facts: list[str], warning: str
) -> Figure:
    mean = "average precision" if len(curves) == 1 else "mean average precision"
    fact = f"{mean} {_with_interval(evaluation, 'average_precision')}"
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

    fact = f"expected calibration error {_with_interval(evaluation, 'expected_calibration_error')}"
    figure = headed_figure((7.0, 7.0), "Reliability diagram", [*facts, fact], warning=warning)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    confidences, accuracies = _points(bins)
    (ideal,) = upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    gaps = upper.vlines(confidences, confidences, accuracies, color=SERIES[1], linewidth=3, alpha=0.45)
    (line,) = upper.plot(confidences, accuracies, "o-", color=SERIES[0], markersize=5)
    entries: list[tuple[str, Artist]] = [("accuracy in the bin", line), ("gap", gaps), ("perfectly calibrated", ideal)]
    calibration = evaluation.get("calibration") or {}
    before = calibration.get("before") or {}
    if before.get("reliability"):
        (raw,) = upper.plot(*_points(before["reliability"]), "s--", color=SERIES[2], markersize=4, linewidth=1.4)
        error = with_interval(
            before.get("expected_calibration_error"), before.get("interval"), partial(number, digits=3)
        )
        entries.insert(2, (f"before calibration: error {error}", raw))
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


def _points(bins: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of the bins that are not empty."""
    known = [
        (confidence, accuracy)
        for confidence, accuracy in zip(bins["confidence"], bins["accuracy"], strict=True)
        if confidence is not None and accuracy is not None
    ]
    return [confidence for confidence, _ in known], [accuracy for _, accuracy in known]


def _baselines(
    evaluation: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]], facts: list[str], warning: str
) -> Figure:
    """The accuracy of each baseline and of the network, with intervals; shortcuts have the color of warnings."""
    from matplotlib.ticker import PercentFormatter

    bounds = (evaluation.get("intervals") or {}).get("accuracy")
    rows = [(drawable(row["name"], 28), row["accuracy"], row.get("accuracy_interval")) for row in baselines]
    colors = [*(WARNING if row.get("is_shortcut") else MUTED for row in baselines), SERIES[0]]
    if evaluation.get("accuracy") is not None:
        rows.append(("network", evaluation["accuracy"], bounds))
    facts = [*facts, "accuracy with 95% intervals"]
    if any(row.get("is_shortcut") for row in baselines):
        facts.append("orange: shortcuts")
    figure = headed_figure((7.0, 1.6 + 0.36 * len(rows)), "Baselines", facts, warning=warning)
    axes = figure.subplots()
    for place, (_, accuracy, interval) in enumerate(rows):
        color = colors[place]
        if interval is not None:
            axes.hlines(place, *interval, color=color, linewidth=2, alpha=0.6)
        axes.plot([accuracy], [place], "o", color=color, markersize=6, clip_on=False, zorder=3)
        # In a column of their own, so that none leaves the figure.
        axes.text(
            1.02, place, percent(accuracy), transform=axes.get_yaxis_transform(), va="center", fontsize=9.5, color=color
        )
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], color=INK)
    lowest = min([accuracy for _, accuracy, _ in rows] + [interval[0] for _, _, interval in rows if interval])
    axes.set(xlim=(max(0.0, lowest - 0.05), 1.0), ylim=(-0.6, len(rows) - 0.4), xlabel="Accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", length=0)
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
