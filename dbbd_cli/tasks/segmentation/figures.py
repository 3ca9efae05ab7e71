"""Figures of an evaluation of segmentation: IoU of each class, confusion matrix, and one scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import counted
from dbbd_cli.report.classification.confusion import confusion_matrix
from dbbd_cli.report.scenes.figures import scene_segmentation
from dbbd_cli.report.style import INK, MUTED, SERIES, add_legend, drawable, headed_figure
from dbbd_cli.report.text import distinct, percent, with_interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from numpy import ndarray

_COLORS = (SERIES[0], SERIES[6], SERIES[4])
"""Of the network, and of the baselines."""
_MAX_CLASSES = 40


def segmentation_figures(
    evaluation: Mapping[str, Any], scene: Mapping[str, ndarray] | None
) -> dict[str, Callable[[], Figure]]:
    """Functions that draw `class_iou`, `confusion_matrix` and `scene_segmentation`, as far as there is data.

    Args:
        evaluation: the content of `evaluation.json`; see `SegmentationEvaluation`.
        scene: the arrays of `evaluation_scene.npz`, as returned by `read_evaluation_scene`.
    """
    warning = "synthetic data" if evaluation.get("synthetic") else ""
    split = [f"{drawable(evaluation['split'], 20)} split"] if evaluation.get("split") else []
    num_samples = evaluation.get("num_samples")
    facts = [*split, *([counted(num_samples, "scene")] if num_samples is not None else [])]
    drawings: dict[str, Callable[[], Figure]] = {}
    if evaluation.get("class_scores"):
        drawings["class_iou"] = partial(_class_iou, evaluation, facts, warning)
    if evaluation.get("confusion_matrix"):
        values = {**evaluation, "accuracy": evaluation.get("overall_accuracy")}
        drawings["confusion_matrix"] = partial(confusion_matrix, values, [*facts, "points"], warning)
    if scene is not None and "segment" in scene and "prediction" in scene:
        about = evaluation.get("scene") or {}
        name = [f"scene {drawable(about['name'])}"] if about.get("name") else []
        about_scene = [*split, *name, counted(len(scene["coord"]), "point")]
        drawings["scene_segmentation"] = lambda: scene_segmentation(
            scene, about_scene, warning, about.get("classes") or []
        )
    return drawings


def _class_iou(evaluation: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """Draw the IoU of each class as bars with intervals, and those of the baselines as marks."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    classes = evaluation["class_scores"]
    order = sorted(range(len(classes)), key=lambda place: -(classes[place].get("iou") or 0))[:_MAX_CLASSES]
    names = distinct([drawable(name, 24) for name in evaluation["classes"]])
    facts = [*facts, f"mIoU {with_interval(evaluation.get('miou'), evaluation.get('miou_interval'), percent)}"]
    if len(order) < len(classes):
        facts = [*facts, f"the {len(order)} of {len(classes)} classes with the highest"]
    figure = headed_figure((10.0, 1.9 + 0.34 * len(order)), "IoU by class", facts, warning=warning)
    axes = figure.subplots()
    for place, row in ((place, classes[index]) for place, index in enumerate(order)):
        iou, interval = row.get("iou"), row.get("iou_interval")
        if iou is None:
            axes.text(0.005, place, "no points in these scenes", color=MUTED, fontsize=8.5, va="center")
            continue
        axes.barh([place], [iou], height=0.62, color=_COLORS[0])
        if interval is not None:
            axes.plot(interval, [place, place], color=INK, linewidth=1.2)
        end = max(iou, *(interval or [0]))
        axes.annotate(
            percent(iou), (end, place), (6, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    baselines = (evaluation.get("baselines") or [])[: len(_COLORS) - 1]
    about = ", with 95% interval over scenes" if evaluation.get("miou_interval") else ""
    entries: list[tuple[str, Artist]] = [(f"this network{about}", Patch(color=_COLORS[0]))]
    for baseline, color in zip(baselines, _COLORS[1:], strict=False):
        look: dict[str, Any] = {"marker": "|", "markersize": 14, "markeredgewidth": 2.5, "linestyle": "none"}
        ious = baseline.get("per_class_iou") or []
        points = [(ious[index], place) for place, index in enumerate(order) if ious and ious[index] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, clip_on=False, zorder=3, **look)
        entries.append((baseline["name"], Line2D([], [], color=color, **look)))
    axes.set_yticks(range(len(order)), [names[index] for index in order], color=INK)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    add_legend(figure, entries, loc="outside lower center", ncols=len(entries))
    return figure
