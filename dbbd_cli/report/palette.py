"""Colors for many classes and for adjacent regions: K colors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dbbd_cli.report.style import SERIES

if TYPE_CHECKING:
    from numpy import ndarray

# Two pale colors for the first classes, usually floor and wall, which are large; the colors of Okabe and Ito; then, one
# by one, the color farthest from all earlier ones in normal, red-blind and green-blind vision.
CLASS_COLORS = (
    "#b9cfe4", "#e5d3ab", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
    "#660080", "#990000", "#9980ff", "#b2e64c", "#1a4c4c", "#ff9999", "#4c33b2", "#00ccb2",
    "#994c00", "#990066", "#6666e6", "#4c4c80", "#cc334c", "#33cc66", "#1a4c00", "#0099cc",
    "#99994c", "#00804c", "#003399", "#66e680", "#99e6cc", "#00e6ff", "#663333", "#994c99",
    "#804ccc", "#4c9999", "#4c80cc", "#336680", "#664c33", "#66ccff", "#e6801a", "#ff99cc",
)  # fmt: skip
UNKNOWN = "#8c959f"
CORRECT, WRONG = "#d0d7de", "#cf222e"
_REGION_COLORS = (*SERIES[:6], "#b2e64c", "#9980ff", "#994c00")


def class_color(index: int) -> str:
    """The color of a class, the same in every figure; gray for unlabeled (-1)."""
    return UNKNOWN if index < 0 else CLASS_COLORS[index % len(CLASS_COLORS)]


def rgb(colors: Iterable[str]) -> ndarray:
    """Colors such as `#0072b2` as an array (K, 3) from 0 to 1."""
    import numpy as np

    return np.array([[int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)] for color in colors])


def region_colors(count: int, touching: Sequence[tuple[int, int]]) -> list[str]:
    """Choose a color for each of `count` regions; adjacent ones differ as long as there are enough colors.

    Args:
        count: number of regions.
        touching: pairs of adjacent regions, longest borders first.
    """
    neighbors: list[list[int]] = [[] for _ in range(count)]
    for one, other in touching:
        neighbors[one].append(other)
        neighbors[other].append(one)
    chosen = [-1] * count
    used = [0] * len(_REGION_COLORS)
    for region in sorted(range(count), key=lambda number: -len(neighbors[number])):
        taken = [chosen[other] for other in neighbors[region] if chosen[other] >= 0]
        # The color that the neighbors use least, and of those the one used least anywhere.
        best = min(range(len(used)), key=lambda color: (taken.count(color), used[color]))
        chosen[region] = best
        used[best] += 1
    return [_REGION_COLORS[color] for color in chosen]
