"""Figures of one scene: its features and labels, and its region tree. N points, L levels, H by W pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dbbd_cli.core.text import counted
from dbbd_cli.report.palette import CORRECT, UNKNOWN, WRONG, class_color, region_colors, rgb
from dbbd_cli.report.style import add_legend, drawable, headed_figure
from dbbd_cli.report.text import distinct, number, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

    from dbbd_cli.report.scenes.view import SceneView

# Finer than the 150 dpi of the figure, for smooth edges.
_PIXELS_PER_INCH = 190
_PANEL_INCHES = 5.6
_REGIONS_INCHES = 4.9
_ALONE_INCHES = 7.6
_MAX_HEIGHT = 0.9
_TITLE_INCHES = 0.36
_LEGEND_ROW_INCHES = 0.21
_LEGEND_CHARACTERS = 150
_MAX_NAMES = 40
_MAX_PANELS = 6


def scene_features(scene: Mapping[str, ndarray], facts: Sequence[str], warning: str, classes: Sequence[str]) -> Figure:
    """Draw a scene colored by its features and, if it has labels, by its labels.

    Args:
        scene: `coord` (N, 3), `color` (N, 3) uint8, and optionally `segment` (N,), indices into `classes` or -1.
        facts: the line under the title.
        warning: the start of that line; empty for none.
        classes: names of the classes.
    """
    import numpy as np

    labeled = scene.get("segment") is not None
    inches = _PANEL_INCHES if labeled else _ALONE_INCHES
    view = _view(scene, inches)
    names = _seen_classes(view, scene["segment"], classes) if labeled else []
    rows = math.ceil(len(names) * (max((len(name) for name, _ in names), default=0) + 7) / _LEGEND_CHARACTERS)
    legend = _LEGEND_ROW_INCHES * rows + 0.1 if names else 0
    # With two panels the titles have no room for this, with one the line of facts has none.
    colors = "first three principal components as red, green and blue"
    facts = [*facts, *_cut(view), *([colors] if labeled else [])]
    figure = _figure("Scene features", facts, warning, view, (1, 1 + labeled), inches, legend)
    panels = figure.subplots(1, 1 + labeled, squeeze=False)[0]
    _show(panels[0], view.paint(scene["color"] / 255), "Features" if labeled else f"Features: {colors}")
    if labeled:
        index, places = np.unique(scene["segment"], return_inverse=True)
        _show(panels[1], view.paint(rgb(map(class_color, index.tolist()))[places]), "Labels")
        add_legend(
            figure, names, loc="outside lower center", ncols=math.ceil(len(names) / max(rows, 1)), handlelength=1.2
        )
    return figure


def scene_segmentation(
    scene: Mapping[str, ndarray], facts: Sequence[str], warning: str, classes: Sequence[str]
) -> Figure:
    """Draw a scene three times: its labels, the predicted ones, and where they differ.

    Args:
        scene: `coord` (N, 3), and `segment` and `prediction`, both (N,), indices into `classes` or -1.
        facts: the line under the title.
        warning: the start of that line; empty for none.
        classes: names of the classes.
    """
    import numpy as np

    view = _view(scene, _REGIONS_INCHES)
    both = np.concatenate([scene["segment"][view.seen], scene["prediction"][view.seen]])
    names = _class_entries(both, classes)
    rows = math.ceil(len(names) * (max(len(name) for name, _ in names) + 7) / _LEGEND_CHARACTERS)
    figure = _figure(
        "Segmentation", [*facts, *_cut(view)], warning, view, (1, 3), _REGIONS_INCHES, _LEGEND_ROW_INCHES * rows + 0.1
    )
    panels = figure.subplots(1, 3, squeeze=False)[0]
    for axes, name, title in zip(panels, ("segment", "prediction"), ("Labels", "Prediction"), strict=False):
        index, places = np.unique(scene[name], return_inverse=True)
        _show(axes, view.paint(rgb(map(class_color, index.tolist()))[places]), title)
    labeled = scene["segment"] >= 0
    wrong = labeled & (scene["segment"] != scene["prediction"])
    colors = rgb([UNKNOWN, CORRECT, WRONG])
    share = wrong.sum() / max(labeled.sum(), 1)
    _show(panels[2], view.paint(colors[labeled.astype(int) + wrong]), f"Errors (red): {percent(float(share))}")
    add_legend(figure, names, loc="outside lower center", ncols=math.ceil(len(names) / rows), handlelength=1.2)
    return figure


def region_tree(scene: Mapping[str, ndarray], facts: Sequence[str], warning: str) -> Figure:
    """Draw the regions of each level of the tree. Colors only distinguish neighbors.

    Args:
        scene: `coord` (N, 3) and `region` (L, N): the region of each point on each level.
        facts: the line under the title.
        warning: the start of that line; empty for none.
    """
    region = scene["region"]
    # The root is the whole scene. The last levels of a very deep tree hardly differ.
    levels = list(range(1, len(region)))[:_MAX_PANELS] or [0]
    across = 1 if len(levels) == 1 else 2 if len(levels) in (2, 4) else 3
    inches = (_ALONE_INCHES, _REGIONS_INCHES, _REGIONS_INCHES * 2 / 3)[across - 1]
    view = _view(scene, inches)
    grid = (math.ceil(len(levels) / across), across)
    if len(levels) < len(region) - 1:
        facts = [*facts, f"levels 1 to {len(levels)} of {len(region) - 1}"]
    figure = _figure("Region tree", [*facts, *_cut(view)], warning, view, grid, inches, 0)
    panels = figure.subplots(*grid, squeeze=False).ravel()
    for axes, level in zip(panels, levels, strict=False):
        count, picture = _paint_regions(view, region[level])
        _show(axes, picture, f"Level {level}: {counted(count, 'region')}")
    for axes in panels[len(levels) :]:
        axes.remove()
    return figure


def _view(scene: Mapping[str, ndarray], inches: float) -> SceneView:
    from dbbd_cli.report.scenes.view import view_scene

    pixels = round(_PIXELS_PER_INCH * inches)
    return view_scene(scene["coord"], pixels, round(pixels * _MAX_HEIGHT))


def _cut(view: SceneView) -> list[str]:
    return ["seen from above"] if view.cut is None else [f"seen from above, cut at a height of {number(view.cut, 1)} m"]


def _figure(
    title: str,
    facts: Sequence[str],
    warning: str,
    view: SceneView,
    grid: tuple[int, int],
    inches: float,
    legend: float,
) -> Figure:
    """An empty figure for a grid (rows, columns) of images `inches` wide, with a legend `legend` inches high."""
    height = inches * min(max(view.owner.shape[0] / view.owner.shape[1], 0.3), _MAX_HEIGHT)
    size = (grid[1] * (inches + 0.1) + 0.3, 0.9 + grid[0] * (height + _TITLE_INCHES) + legend)
    return headed_figure(size, title, facts, warning=warning, compress=True)


def _show(axes: Axes, picture: ndarray, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(title)
    axes.set_axis_off()


def _seen_classes(view: SceneView, segment: ndarray, classes: Sequence[str]) -> list[tuple[str, Artist]]:
    """Name and color of the visible classes."""
    return _class_entries(segment[view.seen], classes)


def _class_entries(segment: ndarray, classes: Sequence[str]) -> list[tuple[str, Artist]]:
    """Name and color of the classes that occur, in order; if there are many, those with the most points."""
    import numpy as np
    from matplotlib.patches import Patch

    index, count = np.unique(segment, return_counts=True)
    most = np.sort(index[np.argsort(-count, kind="stable")[:_MAX_NAMES]])
    known = [int(place) for place in most if place >= 0]
    names = distinct([drawable(classes[i], 24) if i < len(classes) else f"class {i}" for i in known])
    entries: list[tuple[str, Artist]] = [
        (name, Patch(color=class_color(place))) for name, place in zip(names, known, strict=True)
    ]
    return [*entries, ("unlabeled", Patch(color=UNKNOWN))] if -1 in most else entries


def _paint_regions(view: SceneView, region: ndarray) -> tuple[int, ndarray]:
    """The number of regions of a level, given the region (N,) of each point, and its image (H, W, 4)."""
    import numpy as np

    numbers, places = np.unique(region, return_inverse=True)
    covered = view.owner >= 0
    seen = np.where(covered, places[view.owner], -1)
    pairs = [
        np.stack([one, other], axis=-1)[(one != other) & (one >= 0) & (other >= 0)]
        for one, other in ((seen[:, :-1], seen[:, 1:]), (seen[:-1], seen[1:]))
    ]
    touching, count = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0, return_counts=True)
    ordered = touching[np.argsort(-count, kind="stable")]
    colors = rgb(region_colors(len(numbers), [(int(one), int(other)) for one, other in ordered]))
    return len(numbers), view.paint(colors[places])
