"""The training history of DBBD shows loss terms, top-1 by level and signs of collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dbbd_cli.report.save import render
from dbbd_cli.report.style import SERIES
from dbbd_cli.runs.reading import RunHistory, read_run
from dbbd_cli.services.plot import history_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
Make = Callable[..., Any]
SINGLE = [
    "Loss",
    "Loss terms",
    "Top-1 by level",
    "Standard deviation of the features",
    "Effective rank of the features",
    "Learning rate",
]
SEVERAL = [
    "Loss",
    "Region loss",
    "Point loss",
    "Point top-1",
    "Effective rank of the features",
    "Learning rate",
]


def metrics(value: float, levels: tuple[int, ...]) -> dict[str, float | None]:
    fixed = dict.fromkeys(("alignment", "uniformity", "point_chance"), 0.5)
    by_level = {f"{name}_level_{k}": value / (k + 1) for k in levels for name in ("loss", "chance", "top1")}
    named = ("loss", "region_loss", "point_loss", "point_top1", "feature_std", "effective_rank")
    return {**fixed, **by_level, **{name: value * (1 + index) for index, name in enumerate(named)}}


def run_of(name: str, levels: tuple[int, ...] = (1, 2)) -> RunHistory:
    epochs = [
        {
            "kind": "epoch",
            "epoch": epoch,
            "step": 10 * epoch,
            "learning_rate": 0.001 / epoch,
            "train": metrics(0.1 / epoch, levels),
            "val": metrics(0.2 / epoch, levels),
        }
        for epoch in (1, 2)
    ]
    steps = [{"kind": "step", "epoch": 1, "step": i, "learning_rate": 0.001, **metrics(0.2, levels)} for i in (5, 10)]
    return RunHistory(Path(name), name, "dbbd", True, epochs, steps, 2)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def curves(axes: Axes, label: str = "validation") -> list[list[float]]:
    return [list(map(float, line.get_ydata())) for line in axes.get_lines() if line.get_label() == label]


def panel_legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def test_one_run_shows_parts_levels_and_collapse() -> None:
    figure = history_figure([run_of("rooms")])
    assert titles(figure) == SINGLE
    loss, parts, top1, spread, rank, rate = figure.axes
    assert curves(loss) == [[0.2, 0.1]]
    assert curves(loss, "train") == [[0.1, 0.05]]
    assert curves(parts) == [[0.4, 0.2], pytest.approx([0.6, 0.3])]
    assert panel_legend(parts) == ["regions", "points"]
    assert curves(top1) == [[0.1, 0.05], pytest.approx([0.2 / 3, 0.1 / 3]), [0.8, 0.4]]
    assert panel_legend(top1) == ["1", "2", "points"]
    assert curves(spread) == [[1.0, 0.5]]
    assert curves(rank) == [pytest.approx([1.2, 0.6])]
    assert curves(rate, "learning rate") == [[0.001, 0.0005]]
    assert str(top1.yaxis.get_major_formatter()(0.5, 0)).endswith("%")
    within = [artist for axes in figure.axes for artist in axes.get_children() if "within" in str(artist.get_label())]
    assert len(within) == 3  # only in panels with a single metric
    render(figure, "png")


def test_the_header_names_task_and_best_epoch() -> None:
    from matplotlib.text import Text

    shown = " ".join(text.get_text() for text in history_figure([run_of("rooms")]).findobj(Text))  # type: ignore[attr-defined]
    assert "dbbd" in shown
    assert "best epoch 2 (lowest validation loss): loss 0.1000, point top-1 40.00%" in shown


def test_missing_metrics_leave_no_empty_panel() -> None:
    run = run_of("rooms", levels=())
    for row in run.epochs:
        for split in ("train", "val"):
            row[split] |= {"feature_std": None, "region_loss": None}
            del row[split]["effective_rank"]
    figure = history_figure([run])
    assert titles(figure) == ["Loss", "Loss terms", "Top-1 by level", "Learning rate"]
    assert curves(figure.axes[2]) == [[0.8, 0.4]]
    render(figure, "png")


def test_levels_are_in_order_and_a_deep_tree_shows_the_first() -> None:
    figure = history_figure([run_of("rooms", levels=(11, 10, 4, 3, 2, 1, 0))])
    assert panel_legend(figure.axes[2]) == ["0", "1", "2", "3", "4", "points"]
    colors = [line.get_color() for line in figure.axes[2].get_lines() if line.get_label() == "validation"]
    assert len(set(colors)) == 6
    render(figure, "png")


def test_a_description_loss_is_shown_with_the_others() -> None:
    runs = [run_of("a"), run_of("b")]
    for run in runs:
        for row in run.epochs:
            for split in ("train", "val"):
                row[split]["description_loss"] = 0.5
    assert panel_legend(history_figure(runs[:1]).axes[1]) == ["regions", "points", "description"]
    assert "Description loss" in titles(history_figure(runs))


def test_several_runs_have_a_color_each() -> None:
    figure = history_figure([run_of("a"), run_of("b", levels=(1,))])
    assert titles(figure) == SEVERAL
    for axes in figure.axes[:-1]:
        assert len(curves(axes)) == 2
    lines = [line for line in figure.axes[3].get_lines() if line.get_label() == "validation"]
    assert [line.get_color() for line in lines] == list(SERIES[:2])
    render(figure, "png")


def test_a_non_finite_value_is_marked() -> None:
    run = run_of("rooms")
    run.epochs[1]["val"]["top1_level_1"] = None
    figure = history_figure([run])
    assert curves(figure.axes[2], "not finite") == [[pytest.approx(0.03)]]
    assert curves(figure.axes[0], "not finite") == []


def test_a_history_is_read_as_it_was_written(make_run: Make) -> None:
    rows = [*run_of("x").steps, *run_of("x").epochs]
    assert titles(history_figure([read_run(make_run(rows=rows, task="dbbd"))])) == SINGLE
