"""The confusion matrix as a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.report.style import GRID, HEAT, INK, drawable, headed_figure
from dbbd_cli.report.text import distinct, percent, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

# Most classes for which a cell has room for count and percentage, a cell for the count, and an axis for every name.
_MAX_FOR_PERCENT = 12
_MAX_FOR_COUNT = 30
_MAX_FOR_NAMES = 40
# Share above which a cell is too dark for dark text.
_DARK = 0.7


def confusion_matrix(evaluation: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """Draw counts by true class (rows) and predicted class (columns), colored by share of the true class.

    Args:
        evaluation: has `classes` and `confusion_matrix`, (classes, classes) counts in the same order.
        facts: the line under the title.
        warning: the start of that line; empty for none.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import PercentFormatter

    counts = np.array(evaluation["confusion_matrix"], dtype=np.int64)
    support = counts.sum(axis=1, keepdims=True)
    # A class without samples has no shares: its row stays empty rather than show 0%.
    shares = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    side = min(max(4.4, 0.72 * len(counts)), 11.0)
    bounds = (evaluation.get("intervals") or {}).get("accuracy")
    facts = [*facts, f"accuracy {with_interval(evaluation.get('accuracy'), bounds, percent)}"]
    figure = headed_figure((side + 2.2, side + 1.6), "Confusion matrix", facts, warning=warning, compress=True)
    axes = figure.subplots()
    # From transparent to opaque, so that an empty cell has the color of the background.
    heat = LinearSegmentedColormap.from_list("heat", [to_rgba(HEAT, 0.0), to_rgba(HEAT, 1.0)])
    image = axes.imshow(shares, cmap=heat, vmin=0, vmax=1)
    _name_classes(axes, [drawable(str(name), 24) for name in evaluation["classes"]])
    _fill_cells(axes, counts, shares)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=2 + 5 * side, pad=0.02)
    bar.set_label("Share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.grid(False)
    for steps in bar.ax.collections:
        steps.set_rasterized(True)  # translucent vector steps would show seams
    bar.outline.set_visible(False)
    return figure


def _name_classes(axes: Axes, names: list[str]) -> None:
    step = -(-len(names) // _MAX_FOR_NAMES)
    ticks = list(range(0, len(names), step))
    labels = distinct(names)[::step]
    size = 10 if len(names) <= _MAX_FOR_PERCENT else 8
    slanted = len(names) > 3 or max(map(len, labels)) > 12
    axes.set_xticks(ticks, labels, fontsize=size, color=INK)
    if slanted:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels, fontsize=size, color=INK)
    axes.tick_params(length=0)
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if len(names) <= _MAX_FOR_COUNT:
        edges = [position - 0.5 for position in range(len(names) + 1)]
        axes.hlines(edges, edges[0], edges[-1], color=GRID, linewidth=0.8)
        axes.vlines(edges, edges[0], edges[-1], color=GRID, linewidth=0.8)


def _fill_cells(axes: Axes, counts: ndarray, shares: ndarray) -> None:
    import numpy as np

    num_classes = len(counts)
    if num_classes > _MAX_FOR_COUNT:
        return
    with_percent = num_classes <= _MAX_FOR_PERCENT
    size = 11 if num_classes <= 5 else 8.5 if with_percent else 7
    for row, column in np.ndindex(counts.shape):
        count, share = int(counts[row, column]), float(shares[row, column])
        if count == 0 and not with_percent:
            continue  # zeros would clutter a large matrix
        text = f"{count:,}\n{percent(None if math.isnan(share) else share)}" if with_percent else f"{count:,}"
        color = "white" if share > _DARK else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color, linespacing=1.4)
