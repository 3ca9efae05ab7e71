"""Figures of an evaluation of DBBD: losses compared with chance, probes of the features, and one scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dbbd_cli.core.text import counted
from dbbd_cli.report.scenes.figures import region_tree, scene_features
from dbbd_cli.report.style import INK, MUTED, SERIES, WARNING, add_legend, drawable, headed_figure
from dbbd_cli.report.text import count, distinct, number, percent
from dbbd_cli.tasks.dbbd.label_figures import label_figure
from dbbd_cli.tasks.dbbd.probe_figures import probe_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

_LOSS: dict[str, Any] = {"marker": "o", "markersize": 9, "linestyle": "none", "color": SERIES[0]}
_CHANCE: dict[str, Any] = {"marker": "|", "markersize": 17, "markeredgewidth": 2, "linestyle": "none", "color": MUTED}
_TOP1 = SERIES[2]
_ANNOTATION: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5}
_MEANS = (("loss", "loss"), ("regions", "region_loss"), ("points", "point_loss"))


def dbbd_figures(evaluation: Mapping[str, Any], scene: Mapping[str, ndarray] | None) -> dict[str, Callable[[], Figure]]:
    """Functions that draw each of `Dbbd.figure_names` that there is data for.

    Args:
        evaluation: the content of `evaluation.json`; see `DbbdEvaluation`.
        scene: the arrays of `evaluation_scene.npz`, as returned by `read_evaluation_scene`.
    """
    warning = "synthetic data" if evaluation.get("synthetic") else ""
    split = [f"{drawable(evaluation['split'], 20)} split"] if evaluation.get("split") else []
    drawings: dict[str, Callable[[], Figure]] = {}
    if evaluation.get("contrast"):
        num_samples = evaluation.get("num_samples")
        facts = [*split, *([counted(num_samples, "scene")] if num_samples is not None else [])]
        drawings["level_losses"] = partial(_level_losses, evaluation, facts, warning)
    if evaluation.get("probe") and evaluation["probe"].get("features"):
        drawings["probe"] = partial(probe_figure, evaluation["probe"], split, warning)
    labels = evaluation.get("label_efficiency")
    if labels and any(point.get("miou") is not None for curve in labels["curves"] for point in curve["points"]):
        drawings["label_efficiency"] = partial(label_figure, labels, split, warning)
    if scene is not None:
        about = evaluation.get("scene") or {}
        drawings["scene_features"] = lambda: scene_features(
            scene, _scene_facts(split, about, scene), warning, about.get("classes") or []
        )
        drawings["region_tree"] = lambda: region_tree(scene, _scene_facts(split, about, scene), warning)
    return drawings


def _scene_facts(split: list[str], about: Mapping[str, Any], scene: Mapping[str, ndarray]) -> list[str]:
    name = [f"scene {drawable(about['name'])}"] if about.get("name") else []
    return [*split, *name, counted(len(scene["coord"]), "point")]


def _level_losses(evaluation: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """Draw the loss of each level and of the points next to the chance level, and the top-1 accuracy."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    rows = evaluation["contrast"]
    means = [f"{name} {number(evaluation[key], 3)}" for name, key in _MEANS if evaluation.get(key) is not None]
    figure = headed_figure((11.0, 1.9 + 0.55 * len(rows)), "Contrast by level", [*facts, *means], warning=warning)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, row in enumerate(rows):
        _draw_loss(left, place, row.get("loss"), row.get("chance"))
        _draw_top1(right, place, row.get("top1"), row.get("rows"))
    names = distinct([drawable(row["name"], 24) for row in rows])
    candidates = [f"\n{count(row['rows'])} candidates" if row.get("rows") is not None else "" for row in rows]
    left.set_yticks(range(len(rows)), [name + among for name, among in zip(names, candidates, strict=True)], color=INK)
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_title("Loss and chance level")
    right.set_title("Top-1 accuracy")
    values = [row[key] for row in rows for key in ("loss", "chance") if row.get(key) is not None]
    most = max([*values, 1e-3])
    left.set_xlim(min([0.0, *values]) - 0.03 * most, 1.12 * most)
    right.set_xlim(0, 1.15)
    right.set_xticks([0, 0.25, 0.5, 0.75, 1])
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    entries: list[tuple[str, Artist]] = [
        ("loss", Line2D([], [], **_LOSS)),
        ("chance level", Line2D([], [], **_CHANCE)),
        ("top-1 accuracy", Patch(color=_TOP1)),
    ]
    add_legend(figure, entries, loc="outside lower center", ncols=len(entries))
    return figure


def _draw_loss(axes: Axes, place: int, loss: float | None, chance: float | None) -> None:
    if chance is not None:
        axes.plot([chance], [place], **_CHANCE)
        side = -1 if loss is not None and loss > chance else 1
        align: Literal["left", "right"] = "left" if side > 0 else "right"
        text = number(chance, 2)
        axes.annotate(text, (chance, place), (9 * side, 0), color=MUTED, ha=align, va="center", **_ANNOTATION)
    if loss is None:
        return
    if chance is not None:
        # The bar shows what was learned; a loss above the chance level is worse than guessing.
        color = SERIES[0] if loss <= chance else WARNING
        axes.plot([loss, chance], [place, place], color=color, linewidth=6, alpha=0.3, solid_capstyle="butt", zorder=1)
    axes.plot([loss], [place], **_LOSS)
    axes.annotate(number(loss, 2), (loss, place), (0, 7), color=INK, ha="center", va="bottom", **_ANNOTATION)


def _draw_top1(axes: Axes, place: int, top1: float | None, rows: float | None) -> None:
    if top1 is not None:
        axes.barh([place], [top1], height=0.5, color=_TOP1)
        end = max(top1, 1 / rows if rows is not None and rows >= 1 else 0)
        axes.annotate(percent(top1), (end, place), (9, 0), color=INK, ha="left", va="center", **_ANNOTATION)
    if rows is not None and rows >= 1:
        axes.plot([1 / rows], [place], **_CHANCE)
