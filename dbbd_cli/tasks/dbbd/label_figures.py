"""The figure of label efficiency: the score of each kind of features by the number of labeled scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.style import INK, add_legend, drawable, headed_figure
from dbbd_cli.report.text import distinct
from dbbd_cli.tasks.dbbd.probe_figures import COLORS, MARKERS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def label_figure(values: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """Draw the mean score and its range over draws, for each kind of features.

    Args:
        values: `label_efficiency` of `evaluation.json`, with at least one score.
        facts: the line under the title.
        warning: the start of that line; empty for none.
    """
    from matplotlib.lines import Line2D

    curves = values["curves"][: len(COLORS)]
    names = distinct([drawable(curve["name"], 24) for curve in curves])
    draws = max((point.get("draws") or 1 for curve in curves for point in curve["points"]), default=1)
    facts = [
        *facts,
        *([f"tested on {counted(values['test_scenes'], 'scene')}"] if values.get("test_scenes") is not None else []),
        *([f"mean and range of {draws} draws of the labeled scenes"] if draws > 1 else []),
    ]
    figure = headed_figure((8.0, 5.2), "Label efficiency", facts, warning=warning)
    axes = figure.subplots()
    # The pretrained features last, on top of the others.
    for index, curve in reversed([*enumerate(curves)]):
        _draw_curve(axes, curve["points"], COLORS[index], MARKERS[index])
    sizes = sorted({point["scenes"] for curve in curves for point in curve["points"] if point["scenes"] > 0})
    _scale(axes, sizes, values.get("train_scenes"))
    entries: list[tuple[str, Artist]] = [
        (name, Line2D([], [], color=COLORS[index], marker=MARKERS[index])) for index, name in enumerate(names)
    ]
    add_legend(figure, entries, loc="outside lower center", ncols=min(len(entries), 4))
    return figure


def _draw_curve(axes: Axes, points: Sequence[Mapping[str, Any]], color: str, marker: str) -> None:
    known = sorted(
        (point for point in points if point.get("miou") is not None and point["scenes"] > 0),
        key=lambda point: point["scenes"],
    )
    sizes = [point["scenes"] for point in known]
    low, high = (
        [point["miou"] if point.get(key) is None else point[key] for point in known] for key in ("low", "high")
    )
    axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(sizes, [point["miou"] for point in known], color=color, marker=marker, markersize=6)


def _scale(axes: Axes, sizes: Sequence[int], all_scenes: int | None) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{size:,}{' (all)' if size == all_scenes else ''}" for size in sizes], color=INK)
    if sizes:
        axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    axes.set_xlabel("Labeled training scenes")
    axes.set_ylabel("mIoU")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
