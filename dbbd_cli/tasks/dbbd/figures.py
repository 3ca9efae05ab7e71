"""The figures of an evaluated DBBD pretraining: losses beside chance, the probe, and one scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from dbbd_cli.core.text import counted
from dbbd_cli.report.drawing import OnFailure, draw
from dbbd_cli.report.scenes.figures import region_tree, scene_features
from dbbd_cli.report.style import INK, MUTED, SERIES, WARNING, add_legend, drawable, headed_figure
from dbbd_cli.report.text import distinct, number, percent
from dbbd_cli.tasks.dbbd.probe_figures import probe

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray

_LOSS: dict[str, Any] = {"marker": "o", "markersize": 9, "linestyle": "none", "color": SERIES[0]}
_CHANCE: dict[str, Any] = {"marker": "|", "markersize": 17, "markeredgewidth": 2, "linestyle": "none", "color": MUTED}
_TOP1 = SERIES[2]
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5}
_MEANS = (("loss", "loss"), ("regions", "region_loss"), ("points", "point_loss"))


def pretraining_figures(
    report: Mapping[str, Any], scene: Mapping[str, ndarray] | None, failed: OnFailure | None = None
) -> dict[str, Figure]:
    """Draws what there is of `level_losses`, `probe`, `scene_features` and `region_tree`.

    Args:
        report: the content of `evaluation.json`, as `read_evaluation` returns it.
        scene: the arrays of `evaluation_scene.npz`, as `read_evaluation_scene` returns them.
        failed: as in `draw`.
    """
    warning = "synthetic data" if report.get("synthetic") else ""
    split = [f"{drawable(report['split'], 20)} split"] if report.get("split") else []
    count = report.get("num_samples")
    facts = [*split, *([counted(count, "scene")] if count is not None else [])]
    about = report.get("scene") or {}

    def facts_of_scene() -> list[str]:
        assert scene is not None
        points = len(scene["coord"])
        name = [f"scene {drawable(about['name'])}"] if about.get("name") else []
        return [*split, *name, counted(points, "point")]

    drawings: dict[str, Callable[[], Figure]] = {}
    if report.get("contrast"):
        drawings["level_losses"] = lambda: _level_losses(report, facts, warning)
    if report.get("probe") and report["probe"].get("features"):
        drawings["probe"] = lambda: probe(report["probe"], split, warning)
    if scene is not None:
        classes = about.get("classes") or []
        drawings["scene_features"] = lambda: scene_features(scene, facts_of_scene(), warning, classes)
        drawings["region_tree"] = lambda: region_tree(scene, facts_of_scene(), warning)
    return draw(drawings, failed)


def _level_losses(report: Mapping[str, Any], facts: Sequence[str], warning: str) -> Figure:
    """The loss of each level and of the points beside that of guessing, and how often the right one comes first."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    rows = report["contrast"]
    facts = [*facts, *(f"{name} {number(report[key], 3)}" for name, key in _MEANS if report.get(key) is not None)]
    figure = headed_figure((11.0, 1.9 + 0.55 * len(rows)), "Contrast by level", facts, warning=warning)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, row in enumerate(rows):
        _draw_loss(left, place, row.get("loss"), row.get("chance"))
        _draw_top1(right, place, row.get("top1"), row.get("rows"))
    names = distinct([drawable(row["name"], 24) for row in rows])
    counts = [f"\namong {number(row['rows'], 0)}" if row.get("rows") is not None else "" for row in rows]
    left.set_yticks(range(len(rows)), [name + count for name, count in zip(names, counts, strict=True)], color=INK)
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_title("Loss, and that of guessing (chance)")
    right.set_title("How often the right one comes first (top-1)")
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
        ("chance", Line2D([], [], **_CHANCE)),
        ("top-1", Patch(color=_TOP1)),
    ]
    add_legend(figure, entries, loc="outside lower center", ncols=len(entries))
    return figure


def _draw_loss(axes: Axes, place: int, loss: float | None, chance: float | None) -> None:
    if chance is not None:
        axes.plot([chance], [place], **_CHANCE)
        side = -1 if loss is not None and loss > chance else 1
        align: Literal["left", "right"] = "left" if side > 0 else "right"
        text = number(chance, 2)
        axes.annotate(text, (chance, place), (9 * side, 0), color=MUTED, ha=align, va="center", **_BESIDE)
    if loss is None:
        return
    if chance is not None:
        # What was learned is the way from guessing to the loss; a loss beyond it is worse than guessing.
        color = SERIES[0] if loss <= chance else WARNING
        axes.plot([loss, chance], [place, place], color=color, linewidth=6, alpha=0.3, solid_capstyle="butt", zorder=1)
    axes.plot([loss], [place], **_LOSS)
    axes.annotate(number(loss, 2), (loss, place), (0, 7), color=INK, ha="center", va="bottom", **_BESIDE)


def _draw_top1(axes: Axes, place: int, top1: float | None, rows: float | None) -> None:
    if top1 is not None:
        axes.barh([place], [top1], height=0.5, color=_TOP1)
        end = max(top1, 1 / rows if rows is not None and rows >= 1 else 0)
        axes.annotate(percent(top1), (end, place), (9, 0), color=INK, ha="left", va="center", **_BESIDE)
    if rows is not None and rows >= 1:
        axes.plot([1 / rows], [place], **_CHANCE)
