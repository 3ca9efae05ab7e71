"""The figure of the linear probe: mean scores and IoU by class for each kind of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.style import INK, MUTED, PAPER, SERIES, add_legend, drawable, headed_figure
from dbbd_cli.report.text import distinct, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURES = (("miou", "mIoU"), ("mean_accuracy", "Mean accuracy"), ("overall_accuracy", "Overall accuracy"))
# The pretrained features in blue, the ones they are compared with in orange and gray.
COLORS = (SERIES[0], SERIES[4], SERIES[6], SERIES[2], SERIES[3], SERIES[5], SERIES[1])
MARKERS = "osD^vPX"
# More classes than this would be too small to read.
_MAX_CLASSES = 40
_FEW_CLASSES = 12
_CAPTION_CHARACTERS = 150


def probe_figure(values: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """Draw the mean scores of each kind of features, and the IoU of each class.

    Args:
        values: `probe` of `evaluation.json`, with at least one entry in `features`.
        facts: the line under the title.
        warning: the start of that line; empty for none.
    """
    from matplotlib.lines import Line2D

    features = values["features"][: len(COLORS)]
    names = distinct([drawable(entry["name"], 24) for entry in features])
    classes = _shown_classes(values.get("classes") or [], features)
    facts = [*facts, *_counts(values)]
    height = max(4.8, 1.9 + 0.26 * len(classes))
    caption = wrap(drawable(values.get("conclusion") or "", 1000), _CAPTION_CHARACTERS)
    figure = headed_figure((12.0, height), "Linear probe", facts, warning=warning, caption=caption)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1]) if classes else (figure.subplots(), None)
    _draw_means(left, features, 9 if len(features) <= 3 and len(classes) <= _FEW_CLASSES else 7.5)
    if right is not None:
        _draw_classes(right, features, classes, len(values["classes"]))
    entries: list[tuple[str, Artist]] = [
        (_with_dim(name, entry), Line2D([], [], **_look(index)))
        for index, (name, entry) in enumerate(zip(names, features, strict=True))
    ]
    add_legend(figure, entries, loc="outside lower center", ncols=min(len(entries), 4))
    return figure


def _counts(values: Mapping[str, Any]) -> list[str]:
    trained, tested = values.get("train_scenes"), values.get("test_scenes")
    if trained is None or tested is None:
        return []
    return [f"trained on {counted(trained, 'labeled scene')}, tested on {tested:,}"]


def _with_dim(name: str, entry: Mapping[str, Any]) -> str:
    dim = entry.get("dim")
    return name if dim is None else f"{name} ({counted(dim, 'dimension')})"


def _look(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index],
        "marker": MARKERS[index],
        "markersize": 8,
        "linestyle": "none",
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.8,
    }


def _draw_means(axes: Axes, features: Sequence[Mapping[str, Any]], size: float) -> None:
    width = 0.8 / len(features)
    for index, entry in enumerate(features):
        for place, (key, _) in enumerate(_MEASURES):
            score = entry.get(key)
            x = place + (index - (len(features) - 1) / 2) * width
            # A missing score is a dash instead of a bar.
            axes.bar([x], [score or 0], width=0.92 * width, color=COLORS[index])
            axes.annotate(
                percent(score), (x, score or 0), (0, 3), textcoords="offset points", ha="center", va="bottom",
                fontsize=size, color=INK,
            )  # fmt: skip
    axes.set_xticks(range(len(_MEASURES)), [name for _, name in _MEASURES], color=INK)
    axes.set_title("All classes")
    _scale(axes, "y")
    axes.grid(axis="x", visible=False)


def _draw_classes(
    axes: Axes, features: Sequence[Mapping[str, Any]], classes: Sequence[tuple[int, str]], total: int
) -> None:
    for place, (number, _) in enumerate(classes):
        scores = [entry["per_class_iou"][number] for entry in features]
        known = [score for score in scores if score is not None]
        if known:
            axes.plot([min(known), max(known)], [place, place], color=MUTED, linewidth=1, alpha=0.5, zorder=1)
        else:
            axes.text(0.01, place, "no points in these scenes", color=MUTED, fontsize=8.5, va="center")
        # The pretrained features last, on top of the others.
        for index in reversed(range(len(features))):
            if scores[index] is not None:
                axes.plot([scores[index]], [place], **_look(index), clip_on=False, zorder=3)
    axes.set_yticks(range(len(classes)), [name for _, name in classes], color=INK)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    cut = f": the {len(classes)} of {total:,} with the lowest" if len(classes) < total else ""
    axes.set_title(f"IoU by class{cut}")
    _scale(axes, "x")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _scale(axes: Axes, which: str) -> None:
    """Scale an axis from 0% to 100%, with room for the text above a bar."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axis.set_view_interval(*((-0.015, 1.0) if which == "x" else (0.0, 1.06)), ignore=True)


def _shown_classes(classes: Sequence[str], features: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Index and name of the classes to draw, best first by the first features; the worst ones if there are many."""
    ious = features[0].get("per_class_iou")
    if not classes or any(entry.get("per_class_iou") is None for entry in features) or ious is None:
        return []
    ordered = sorted(range(len(classes)), key=lambda index: -1 if ious[index] is None else ious[index], reverse=True)
    names = distinct([drawable(name, 24) for name in classes])
    return [(index, names[index]) for index in ordered[-_MAX_CLASSES:]]
