"""The figure of `inspect`: how well trivial properties classify."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dbbd_cli.report.style import GRID, INK, MUTED, SERIES, WARNING, add_legend, drawable, headed_figure
from dbbd_cli.report.text import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_INCHES = 0.36
_MARGIN_INCHES = 1.9
_MAX_ROWS = 40


def shortcut_figure(result: Mapping[str, Any]) -> Figure:
    """A bar for the balanced accuracy of each property, with its interval, chance and the best possible result.

    Args:
        result: the fields of an `InspectResult` as plain values, with at least one shortcut.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    rows = result["shortcuts"][:_MAX_ROWS]
    clear = sum(row["clear"] for row in result["shortcuts"])
    facts = ["validation split", f"{clear} of {len(result['shortcuts'])} properties clearly above chance"]
    warning = "synthetic data" if result["synthetic"] else ""
    size = (8.4, _MARGIN_INCHES + _ROW_INCHES * len(rows))
    figure = headed_figure(size, "Trivial properties as classifiers", facts, warning=warning)
    axes = figure.subplots()
    places = range(len(rows))
    scores = [row["balanced_accuracy"] for row in rows]
    errors = [
        [row["balanced_accuracy"] - row["low"] for row in rows],
        [row["high"] - row["balanced_accuracy"] for row in rows],
    ]
    colors = [WARNING if row["clear"] else SERIES[-1] for row in rows]
    axes.barh(
        places, scores, color=colors, alpha=0.75, height=0.62, xerr=errors, error_kw={"ecolor": INK, "elinewidth": 1.2}
    )
    for place, row in zip(places, rows, strict=True):
        axes.text(0.01, place, percent(row["balanced_accuracy"]), color=INK, va="center", fontsize=9)
    chance = axes.axvline(result["chance"], color=MUTED, linestyle=":", linewidth=1.4)
    limit = axes.axvline(result["clear_above"], color=WARNING, linestyle="--", linewidth=1.2)
    best = axes.axvline(result["best_possible"], color=SERIES[2], linewidth=1.4)
    axes.set_yticks(list(places), [drawable(row["name"], 30) for row in rows], color=INK)
    axes.set(xlim=(0, 1.02), xlabel="Balanced accuracy with 95% interval", ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    entries = [
        ("clearly above chance", Patch(facecolor=WARNING, alpha=0.75)),
        (f"chance ({percent(result['chance'])})", chance),
        (f"interval must begin above {percent(result['clear_above'])}", limit),
        (f"best possible ({percent(result['best_possible'])})", best),
    ]
    add_legend(figure, entries, loc="outside lower center", ncols=2, edgecolor=GRID)
    return figure
