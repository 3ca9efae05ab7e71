"""The training history shows the values of the runs, tells runs apart, and draws any value that can be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dbbd_cli.report import history
from dbbd_cli.report.history_panels import metric_panel
from dbbd_cli.report.save import render
from dbbd_cli.runs.reading import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
Make = Callable[..., Any]


def training_history(runs: list[Any], **options: Any) -> Figure:
    """The history of a classifier."""
    return history.training_history(runs, ("loss", "accuracy"), [metric_panel("accuracy")], **options)


def lines(axes: Axes, label: str) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_label() == label]


def data(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def texts(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_panels_show_the_values_of_the_history(make_run: Make) -> None:
    figure = training_history([read_run(make_run())])
    loss, accuracy, rate = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy", "Learning rate"]
    assert data(lines(loss, "train")[0]) == [(1, 0.35), (2, 0.3)]
    assert data(lines(loss, "validation")[0]) == [(1, 0.7), (2, 0.6)]
    assert data(lines(accuracy, "train")[0]) == [(1, 0.25), (2, 0.3125)]
    assert data(lines(accuracy, "validation")[0]) == [(1, 0.5), (2, 0.625)]
    assert data(lines(rate, "learning rate")[0]) == [(1, 0.001), (2, 0.001)]
    assert lines(loss, "train")[0].get_linestyle() == "--"
    assert lines(loss, "validation")[0].get_linestyle() == "-"
    assert data(lines(loss, "best epoch")[0]) == [(2, 0.6)]
    assert legend(figure) == ["train", "validation", "best epoch"]


def test_the_header_summarizes_the_run(make_run: Make) -> None:
    shown = " ".join(texts(training_history([read_run(make_run())])))
    assert "Training history" in shown
    assert "qr" in shown
    assert "synthetic data" in shown
    assert "best epoch 2 (lowest validation loss): loss 0.6000, accuracy 62.50%" in shown
    assert "synthetic" not in " ".join(texts(training_history([read_run(make_run("b", source="folder"))])))


def test_the_header_names_a_better_value_in_another_epoch(make_run: Make, row: Make) -> None:
    rows = [row(1, 0.6, 0.625, best=True), row(2, 0.7, 0.75)]
    shown = " ".join(texts(training_history([read_run(make_run(rows=rows))])))
    assert "(lowest validation loss): loss 0.6000, accuracy 62.50% (highest 75.00% in epoch 2)" in shown
    by_accuracy = make_run(
        "b", rows=[row(1, 0.6, 0.625), row(2, 0.7, 0.75, best=True)], checkpoint={"metric": "accuracy"}
    )
    shown = " ".join(texts(training_history([read_run(by_accuracy)])))
    assert (
        "best epoch 2 (highest validation accuracy): loss 0.7000 (lowest 0.6000 in epoch 1), accuracy 75.00%" in shown
    )


def test_a_header_that_would_not_fit_leaves_out_the_values_of_other_epochs(make_run: Make, row: Make) -> None:
    metrics = ("loss", "accuracy", "mean_accuracy", "overall_accuracy")
    rows = [row(1, 0.6, 0.625, best=True), row(2, 0.7, 0.75)]
    for each in rows:
        each["val"] |= dict.fromkeys(metrics[2:], each["val"]["accuracy"])
    shown = " ".join(texts(history.training_history([read_run(make_run(rows=rows))], metrics)))
    expected = "loss 0.6000, accuracy 62.50%, mean accuracy 62.50%, overall accuracy 62.50%"
    assert f"best epoch 1 (lowest validation loss): {expected}" in shown
    assert "in epoch 2" not in shown


def test_the_metric_that_decides_has_a_panel(make_run: Make, row: Make) -> None:
    rows = [row(1, 0.6, 0.625, best=True)]
    rows[0]["val"]["f1"] = 0.5
    figure = training_history([read_run(make_run(rows=rows, checkpoint={"metric": "f1"}))])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Accuracy", "F1", "Learning rate"]
    unknown = read_run(make_run("b", checkpoint={"metric": "auc"}))
    assert unknown.metric == "loss", "a metric that was never recorded decided nothing"


def with_rates(rows: list[Any], rates: list[float]) -> list[Any]:
    return [{**row, "learning_rate": rate} for row, rate in zip(rows, rates, strict=True)]


def test_the_schedule_is_a_staircase_through_all_that_was_logged(make_run: Make, row: Make) -> None:
    epochs = with_rates([row(1, 0.7), row(2, 0.6), row(3, 0.5, best=True)], [0.5, 1.0, 0.25])
    half = epochs[0]["step"] / 2
    logged = [{"kind": "step", "epoch": 1, "step": int(half), "learning_rate": 0.25, "loss": 0.7}]
    figure = training_history([read_run(make_run(rows=[*logged, *epochs]))])
    (schedule,) = lines(figure.axes[-1], "schedule")
    assert data(schedule) == [(0.5, 0.25), (1, 0.5), (2, 1.0), (3, 0.25)]
    assert schedule.get_drawstyle() == "steps-pre"
    assert data(lines(figure.axes[-1], "learning rate")[0]) == [(1, 0.5), (2, 1.0), (3, 0.25)]
    assert not lines(figure.axes[-1], "warm-up")


@pytest.mark.parametrize(
    ("warmup", "rates", "rest"),
    [
        (2.0, [0.5, 1.0, 0.25], [(2, 1.0), (3, 0.25)]),
        (0.4, [1.0, 1.0, 0.25], [(0.4, 1.0), (1, 1.0), (2, 1.0), (3, 0.25)]),
    ],
)
def test_warm_up_is_drawn_even_if_none_of_its_steps_was_logged(
    warmup: float, rates: list[float], rest: list[tuple[float, float]], make_run: Make, row: Make
) -> None:
    rows = with_rates([row(1, 0.7), row(2, 0.6), row(3, 0.5, best=True)], rates)
    figure = training_history([read_run(make_run(rows=rows, training={"warmup_epochs": warmup}))])
    first = 3 / rows[-1]["step"]
    rise, schedule = (data(lines(figure.axes[-1], label)[0]) for label in ("warm-up", "schedule"))
    assert rise == [(first, pytest.approx(first / warmup)), (warmup, pytest.approx(1.0))]
    assert schedule == [(x, pytest.approx(y)) for x, y in rest]
    assert figure.axes[-1].get_yscale() == "linear", "the warm-up does not choose the scale"


def test_a_single_epoch_is_visible(make_run: Make, row: Make) -> None:
    figure = training_history([read_run(make_run(rows=[row(1, 0.7, 0.5, best=True)]))])
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 1.5)
        drawn = [line for line in axes.get_lines() if line.get_label() != "schedule"]
        assert all(line.get_marker() not in ("", "None") for line in drawn)


def test_non_finite_values_are_marked(make_run: Make, row: Make) -> None:
    figure = training_history([read_run(make_run(rows=[row(1, 0.7, 0.5, best=True), row(2, None, 0.5), row(3, None)]))])
    loss = figure.axes[0]
    assert math.isnan(data(lines(loss, "validation")[0])[1][1])
    assert [x for x, _ in data(lines(loss, "not finite")[0])] == [2, 3]
    assert lines(figure.axes[1], "not finite") == []
    assert "not finite" in legend(figure)


def test_a_run_without_any_finite_value_is_drawn(make_run: Make, row: Make) -> None:
    rows = [{**row(1, None), "learning_rate": None}, row(2, None)]
    figure = training_history([read_run(make_run(rows=rows))])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Learning rate"]
    render(figure, "png")


def test_steps_are_drawn_within_epochs_and_spikes_do_not_set_the_scale(make_run: Make, row: Make) -> None:
    steps = [{"kind": "step", "epoch": 1, "step": i, "learning_rate": 0.001, "loss": 0.7} for i in range(1, 21)]
    steps[0]["loss"] = 50.0
    steps[3]["loss"] = None
    figure = training_history([read_run(make_run(rows=[*steps, row(1, 0.7, 0.5), row(2, 0.6, 0.6)]))])
    loss = figure.axes[0]
    within = next(artist for artist in loss.get_children() if artist.get_label() == "train, within epochs")
    assert data(within)[0] == (pytest.approx(0.1), 50.0)
    assert data(within)[-1] == (pytest.approx(2.0), 0.7)
    assert loss.get_ylim()[1] < 1
    assert "train, within epochs" in legend(figure)


def test_several_runs_are_told_apart(make_run: Make) -> None:
    folders = [("a", "qr", "synthetic"), ("b", "qr", "folder"), ("c", "other", "folder")]
    figure = training_history([read_run(make_run(f, name=n, source=s)) for f, n, s in folders])
    curves = lines(figure.axes[0], "validation")
    assert len({curve.get_color() for curve in curves}) == 3
    assert legend(figure) == ["train", "validation", "best epoch", "a (synthetic data)", "b", "other"]
    assert "synthetic data in 1 of 3 runs" in texts(figure)


def test_many_runs_differ_in_color_or_marker(make_run: Make) -> None:
    figure = training_history([read_run(make_run(f"{i}", name=f"run {i}" * 6)) for i in range(20)])
    curves = lines(figure.axes[0], "validation")
    assert len({(curve.get_color(), curve.get_marker()) for curve in curves}) == 20
    render(figure, "png")
    names = figure.legends[1].get_window_extent()
    assert names.x0 >= 0
    assert names.x1 <= figure.bbox.x1


def test_the_accuracy_axis_ends_at_100_percent(make_run: Make, row: Make) -> None:
    figure = training_history([read_run(make_run(rows=[row(1, 0.1, 0.2), row(2, 0.0, 1.0)]))])
    assert figure.axes[1].get_ylim()[1] < 1.02


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [(-1e100, 1e100), (1e100, 1e100), (5e-324, 1e-300), (1.015, 50.0)])
def test_the_largest_and_smallest_values_are_drawn(make_run: Make, row: Make, values: tuple[float, float]) -> None:
    rows = [row(index, value, value) for index, value in enumerate(values, start=1)]
    for entry, value in zip(rows, values, strict=True):
        entry["learning_rate"] = abs(value)
    render(training_history([read_run(make_run(rows=rows))]), "png")


@pytest.mark.parametrize("rates", [(1e-3, 1e-6), (1e-3, 5e-4), (0.0, 1e-3), (0.0, 0.0)])
def test_learning_rates_of_any_range_are_drawn(make_run: Make, row: Make, rates: tuple[float, float]) -> None:
    rows = [{**row(index, 0.5), "learning_rate": rate} for index, rate in enumerate(rates, start=1)]
    figure = training_history([read_run(make_run(rows=rows))])
    axes = figure.axes[-1]
    assert axes.get_yscale() == ("log" if rates[1] == 1e-6 else "linear")
    assert axes.get_ylim()[0] <= min(rates)
    assert axes.get_ylim()[1] > max(rates)
    assert axes.yaxis.get_major_formatter()(1e-6, 0) == "1e-06"


def test_hostile_names_are_shown_as_they_are(make_run: Make) -> None:
    names = ["_private", "$x^2$ $", "<script>", "a\nb\x1b[31m", "猫\u0378", "x" * 300]
    figure = training_history([read_run(make_run(f"{i}", name=name)) for i, name in enumerate(names)])
    shown = legend(figure)[-len(names) :]
    assert shown[:4] == ["_private", "$x^2$ $", "<script>", "a\\nb\\x1b[31m"]
    assert shown[4].endswith("\\u0378")
    assert len(shown[5]) == 40
    assert not any(text.get_parse_math() for legend in figure.legends for text in legend.get_texts())
    render(figure, "svg")


def test_the_style_of_the_user_has_no_effect_and_is_kept(make_run: Make) -> None:
    import matplotlib

    run = read_run(make_run())
    plain = render(training_history([run]), "svg")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40, "savefig.dpi": 20, "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        assert render(training_history([run]), "svg") == plain
        assert dict(matplotlib.rcParams) == before


def test_panels_without_values_are_omitted(make_run: Make) -> None:
    run = read_run(make_run())
    figure = history.training_history([run], panels=[metric_panel("accuracy"), metric_panel("f1")])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy", "Learning rate"]
    assert [axes.get_title(loc="left") for axes in history.training_history([run]).axes] == ["Loss", "Learning rate"]
