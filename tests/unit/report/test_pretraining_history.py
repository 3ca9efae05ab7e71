from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dbbd_cli.report.history import training_history
from dbbd_cli.report.page import html_page
from dbbd_cli.runs.reading import RunHistory, read_run
from dbbd_cli.report.save import render
from dbbd_cli.report.style import SERIES
from dbbd_cli.report.text import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
Make = Callable[..., Any]
SINGLE = [
    "Loss",
    "Parts of the loss",
    "Top-1 by level",
    "Spread of the features",
    "Effective rank of the features",
    "Learning rate",
]
SEVERAL = [
    "Loss",
    "Region loss",
    "Point loss",
    "Top-1 of the points",
    "Effective rank of the features",
    "Learning rate",
]


def metrics(value: float, levels: tuple[int, ...]) -> dict[str, float | None]:
    fixed = dict.fromkeys(("alignment", "uniformity", "point_chance"), 0.5)
    by_level = {f"{name}_level_{k}": value / (k + 1) for k in levels for name in ("loss", "chance", "top1")}
    named = ("loss", "region_loss", "point_loss", "point_top1", "feature_std", "effective_rank")
    return {**fixed, **by_level, **{name: value * (1 + index) for index, name in enumerate(named)}}


def run_of(name: str, task: str = "dbbd", levels: tuple[int, ...] = (1, 2)) -> RunHistory:
    epochs = [
        {
            "kind": "epoch",
            "epoch": epoch,
            "step": 10 * epoch,
            "learning_rate": 0.001 / epoch,
            "train": metrics(0.1 / epoch, levels) if task == "dbbd" else {"loss": 0.7, "accuracy": 0.5},
            "val": metrics(0.2 / epoch, levels) if task == "dbbd" else {"loss": 0.7, "accuracy": 0.5},
        }
        for epoch in (1, 2)
    ]
    steps = [{"kind": "step", "epoch": 1, "step": i, "learning_rate": 0.001, **metrics(0.2, levels)} for i in (5, 10)]
    return RunHistory(Path(name), name, task, True, epochs, steps, 2)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def curves(axes: Axes, label: str = "validation") -> list[list[float]]:
    return [list(map(float, line.get_ydata())) for line in axes.get_lines() if line.get_label() == label]


def panel_legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def test_one_run_shows_parts_levels_and_collapse() -> None:
    figure = training_history([run_of("rooms")])
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
    assert len(within) == 3  # only where a panel has a single metric
    render(figure, "png")


def test_the_header_names_task_and_best_epoch() -> None:
    from matplotlib.text import Text

    shown = " ".join(text.get_text() for text in training_history([run_of("rooms")]).findobj(Text))  # type: ignore[attr-defined]
    assert "DBBD" in shown
    assert "best epoch 2 (lowest validation loss): loss 0.1000, point top-1 40.0%" in shown


def test_metrics_that_are_missing_leave_no_empty_panel() -> None:
    run = run_of("rooms", levels=())
    for row in run.epochs:
        for split in ("train", "val"):
            row[split] |= {"feature_std": None, "region_loss": None}
            del row[split]["effective_rank"]
    figure = training_history([run])
    assert titles(figure) == ["Loss", "Parts of the loss", "Top-1 by level", "Learning rate"]
    assert curves(figure.axes[2]) == [[0.8, 0.4]]
    render(figure, "png")


def test_levels_are_in_order_and_of_a_deep_tree_the_first() -> None:
    figure = training_history([run_of("rooms", levels=(11, 10, 4, 3, 2, 1, 0))])
    assert panel_legend(figure.axes[2]) == ["0", "1", "2", "3", "4", "points"]
    colors = [line.get_color() for line in figure.axes[2].get_lines() if line.get_label() == "validation"]
    assert len(set(colors)) == 6
    render(figure, "png")


def test_several_runs_have_a_color_each() -> None:
    figure = training_history([run_of("a"), run_of("b", levels=(1,))])
    assert titles(figure) == SEVERAL
    for axes in figure.axes[:-1]:
        assert len(curves(axes)) == 2
    lines = [line for line in figure.axes[3].get_lines() if line.get_label() == "validation"]
    assert [line.get_color() for line in lines] == list(SERIES[:2])
    render(figure, "png")


def test_runs_of_both_kinds_show_what_they_share() -> None:
    figure = training_history([run_of("rooms"), run_of("qr", "image_classification")])
    assert titles(figure) == ["Loss", "Learning rate"]
    assert len(curves(figure.axes[0])) == 2
    assert titles(training_history([run_of("qr", "image_classification")])) == ["Loss", "Accuracy", "Learning rate"]


def test_a_value_that_is_not_finite_is_marked() -> None:
    run = run_of("rooms")
    run.epochs[1]["val"]["top1_level_1"] = None
    figure = training_history([run])
    assert curves(figure.axes[2], "not finite") == [[pytest.approx(0.03)]]
    assert curves(figure.axes[0], "not finite") == []


def test_a_history_is_read_as_it_was_written(make_run: Make) -> None:
    rows = [*run_of("x").steps, *run_of("x").epochs]
    assert titles(training_history([read_run(make_run(rows=rows, task="dbbd"))])) == SINGLE


def test_the_page_shows_what_was_measured(pretraining_of: Make) -> None:
    text = html_page([run_of("rooms")], [pretraining_of(["floor", "<b>wall</b>", "chair\x1b"])], {})
    text = re.sub(' data-name="[^"]*"', "", text)
    for row in (
        [
            "rooms",
            "DBBD",
            "synthetic",
            "2",
            "2 (lowest loss)",
            "0.1000",
            "40.0% (highest 80.0% in epoch 1)",
            "0.001 → 0.0005",
        ],
        ["Scenes", "6"],
        ["Points", "203,411"],
        ["Feature std", "0.0800"],
        ["Probe: train scenes", "28"],
        ["points per second", "168,000"],
        ["level 1", "32", "1.5000", "3.4657", "75.0%"],
        ["random encoder", "192", "25.0%", "30.0%", "40.0%"],
        ["floor", "90.0%", "45.0%", "22.5%"],
        ["&lt;b&gt;wall&lt;/b&gt;", "63.3%", "31.7%", "15.8%"],
        ["chair\\x1b", "–", "–", "–"],
    ):
        first, *rest = row
        cells = f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        assert cells.lower() in text.lower()
    assert "Validation top-1 of the points" in text
    assert '<p class="conclusion">Pretraining did not beat a random encoder: its mIoU is lower by 3.2' in text
    assert "\x1b" not in text
    missing = {**pretraining_of(), "probe": None, "probe_missing": "the scenes have no <labels>"}
    text = html_page([run_of("rooms"), run_of("qr", "image_classification")], [missing, None], {})
    assert "none: the scenes have no &lt;labels&gt;" in text
    assert "Validation accuracy" in text
    assert "IoU" not in text


def test_words_of_pretraining() -> None:
    named = {"dbbd": "DBBD", "point_top1": "Point top-1", "top1_level_2": "Top-1 level 2", "feature_std": "Feature std"}
    assert {name: words(name) for name in named} == named
