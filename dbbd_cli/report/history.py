"""The training history of one run, or of several runs overlaid, as a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.metrics import metric_words, superlative
from dbbd_cli.core.text import counted
from dbbd_cli.report.drawing import load_matplotlib
from dbbd_cli.report.history_panels import Panel, shown_panels
from dbbd_cli.report.style import MUTED, SERIES, WARNING, add_legend, drawable, headed_figure, styled
from dbbd_cli.report.text import describe_metric, distinct, run_labels, task_title, value_at_best_epoch, words
from dbbd_cli.runs.reading import RunHistory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^v"
# With more epochs, markers would hide the lines, dashed ones first.
_MANY_EPOCHS = 30
_TRAIN_ALPHA = 0.6
_LEARNING_RATE = "learning_rate"
_MAX_COLUMNS = 3
_COMPACT: dict[str, Any] = {"fontsize": 8.5, "handlelength": 0.8, "handletextpad": 0.35, "columnspacing": 0.6}
_LEGEND_CHARACTERS = 150
_RING: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6}
_LONGEST_FACT = 120
"""Characters for the best epoch in the header, beside the task and the number of epochs."""
_WITHIN_EPOCHS: dict[str, Any] = {"color": SERIES[0], "alpha": 0.35, "label": "train, within epochs"}


def training_history(
    runs: Sequence[RunHistory],
    metrics: Sequence[str] = ("loss",),
    panels: Sequence[Panel] = (),
    *,
    narrow: bool = False,
) -> Figure:
    """Draw the loss, further metrics and the learning rate, epoch by epoch.

    Training curves are dashed and lighter, validation curves solid, the best epoch circled. A single run also shows its
    training loss within epochs; several runs have one color each.

    Args:
        runs: at least one run.
        metrics: the metrics that the header of a single run reports.
        panels: what to show beyond the loss and the learning rate; curves without values are omitted.
        narrow: stack the panels and omit the facts, for a narrow page that shows them elsewhere.
    """
    load_matplotlib()
    panels = shown_panels(runs, panels)
    names = _run_entries(runs)
    characters = _LEGEND_CHARACTERS // 2 if narrow else _LEGEND_CHARACTERS
    num_columns = max(1, characters // (max(len(label) for label, _ in names) + 8))
    with styled():
        name, facts, warning = _header(runs, metrics)
        num_rows = math.ceil(len(names) / num_columns)
        across = 1 if narrow else 2 if len(panels) == 3 else min(len(panels) + 1, _MAX_COLUMNS)
        down = math.ceil((len(panels) + 1) / across)
        size = (5.0 if narrow else 12.0, 4.7 + 3.3 * (down - 1) + 0.2 * num_rows)
        facts = [] if narrow else facts
        figure = headed_figure(
            size, "Training history", facts, name=drawable(name, 24) if narrow else name, warning=warning
        )
        grid = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_title(drawable(panel.title))
            _draw_panel(axes, runs, panel)
        grid[len(panels)].set_title(drawable(words(_LEARNING_RATE)))
        _draw_learning_rates(grid[len(panels)], runs)
        for axes in grid[len(panels) + 1 :]:
            axes.remove()
        for axes in grid[: len(panels) + 1]:
            axes.set_xlabel("Epoch")
            if down > 1:
                axes.tick_params(labelbottom=True)
        _scale_epochs(grid[0], runs)
        styles = _style_entries(runs, panels)
        if len(runs) == 1:
            add_legend(figure, styles, loc="outside lower center", ncols=2 if narrow else len(styles))
        elif narrow:
            add_legend(figure, [*names, *styles], loc="outside lower center", ncols=num_columns)
        else:
            # Line styles go next to the title, to leave the space below to the names of many runs.
            add_legend(figure, styles, loc="upper right", ncols=len(styles)).set_in_layout(False)
            add_legend(figure, names, loc="outside lower center", ncols=num_columns)
        return figure


def _header(runs: Sequence[RunHistory], metrics: Sequence[str]) -> tuple[str, list[str], str]:
    """The name, facts and warning of the header."""
    if len(runs) > 1:
        tasks = sorted({drawable(task_title(run.task)) for run in runs})
        return f"{len(runs)} runs", tasks[:3], synthetic_warning(runs)
    run = runs[0]
    facts = [drawable(task_title(run.task)), counted(len(run.epochs), "epoch")]
    best = next((row["val"] for row in run.epochs if row["epoch"] == run.best_epoch), None)
    if best is not None:
        names = [name for name in dict.fromkeys(["loss", *metrics, run.metric]) if name in best or name == "loss"]
        reason = f"{superlative(run.metric)} validation {drawable(metric_words(run.metric))}"

        def told(values: Iterable[str]) -> str:
            parts = [f"{drawable(metric_words(name))} {value}" for name, value in zip(names, values, strict=True)]
            return f"best epoch {run.best_epoch} ({reason}): {', '.join(parts)}"

        fact = told(value_at_best_epoch(run, name) for name in names)
        if len(fact) > _LONGEST_FACT:  # without the better values of other epochs
            fact = told(describe_metric(name, best.get(name)) for name in names)
        facts.append(fact)
    return drawable(run.name, 60), facts, synthetic_warning(runs)


def synthetic_warning(runs: Sequence[RunHistory]) -> str:
    """A few words on how many of the runs used synthetic data; empty for none."""
    count = sum(run.synthetic for run in runs)
    if count in (0, len(runs)):
        return "synthetic data" if count else ""
    return f"synthetic data in {count} of {len(runs)} runs"


def _draw_panel(axes: Axes, runs: Sequence[RunHistory], panel: Panel) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    alone = len(panel.curves) == 1
    for curve in panel.curves:
        for index, run in enumerate(runs):
            if len(runs) == 1 and alone:
                _draw_steps(axes, run, curve.metric)
            look = _look(index, len(run.epochs))
            _draw_metric(axes, run, curve.metric, {**look, "color": curve.color} if curve.color else look)
    if not alone:
        entries: list[tuple[str, Artist]] = [(c.label, Line2D([], [], color=c.color)) for c in panel.curves]
        add_legend(axes, entries, loc="lower right", bbox_to_anchor=(1.03, 0.985), ncols=len(entries), **_COMPACT)
    if panel.shares:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, -0.015), min(top, 1.015))


def _draw_metric(axes: Axes, run: RunHistory, metric: str, look: dict[str, Any]) -> None:
    epochs = [row["epoch"] for row in run.epochs]
    train = [_float(row["train"].get(metric)) for row in run.epochs]
    val = [_float(row["val"].get(metric)) for row in run.epochs]
    dashes = look if len(epochs) <= _MANY_EPOCHS else {**look, "marker": ""}
    axes.plot(epochs, train, **dashes, linestyle="--", alpha=_TRAIN_ALPHA, label="train")
    axes.plot(epochs, val, **look, linestyle="-", label="validation")
    _mark_best(axes, run, metric, look["color"])
    # Along the bottom edge, to tell a curve without finite values from a run that ended early.
    missing = [e for e, row in zip(epochs, run.epochs, strict=True) if _is_missing(row, metric)]
    if missing:
        edge = axes.get_xaxis_transform()
        axes.plot(missing, [0.03] * len(missing), "x", color=WARNING, transform=edge, label="not finite")


def _draw_steps(axes: Axes, run: RunHistory, metric: str) -> None:
    """Draw the training metric step by step, faintly, behind the epochs."""
    import numpy as np
    from matplotlib.lines import Line2D

    last = run.epochs[-1]
    epochs_per_step = last["epoch"] / max(last["step"], 1)
    values = np.array([_float(row.get(metric)) for row in run.steps])
    x = np.array([row["step"] * epochs_per_step for row in run.steps])
    finite = np.isfinite(values)
    x, values = x[finite], values[finite]
    if not len(x):
        return
    # Single batches are noisy: means over neighboring steps, a few per epoch, show the trend.
    num_groups = min(len(x), max(20, min(4 * len(run.epochs), 200)))
    x, values = (np.array([part.mean() for part in np.array_split(row, num_groups)]) for row in (x, values))
    axes.add_artist(Line2D(x, values, linewidth=1.0, **_WITHIN_EPOCHS))
    # Spikes must not flatten the curves: only the 5th to 95th percentile set the scale.
    axes.update_datalim([(x[0], value) for value in np.percentile(values, [5, 95], method="nearest")])


def _draw_learning_rates(axes: Axes, runs: Sequence[RunHistory]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rates = []
    for index, run in enumerate(runs):
        epochs = [row["epoch"] for row in run.epochs]
        values = [_float(row.get(_LEARNING_RATE)) for row in run.epochs]
        # An epoch ends at its number on the axis, as for the loss within epochs.
        epochs_per_step = epochs[-1] / max(run.epochs[-1]["step"], 1)
        logged = {row["step"] * epochs_per_step: _float(row.get(_LEARNING_RATE)) for row in run.steps}
        schedule = sorted({**logged, **dict(zip(epochs, values, strict=True))}.items())
        color = _look(index, 1)["color"]
        warmup = min(run.warmup_epochs, epochs[-1])
        if warmup > epochs_per_step:
            # The rate rises in proportion to the steps, whether or not any of them was logged.
            slope = schedule[0][1] / min(schedule[0][0], run.warmup_epochs)
            rise = [(epochs_per_step, slope * epochs_per_step), (warmup, slope * warmup)]
            axes.plot(*zip(*rise, strict=True), color=color, label="warm-up")
            schedule = [rise[1], *(point for point in schedule if point[0] > warmup)]
        axes.plot(*zip(*schedule, strict=True), color=color, drawstyle="steps-pre", label="schedule")
        axes.plot(epochs, values, **_look(index, len(epochs)), linestyle="none", label="learning rate")
        after = [value for epoch, value in zip(epochs, values, strict=True) if epoch >= run.warmup_epochs]
        rates += [value for value in after or values if math.isfinite(value)]
    if rates and min(rates) > 0 and max(rates) >= 10 * min(rates):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif rates and max(rates) > 0:
        axes.set_ylim(0, 1.1 * max(rates))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def _mark_best(axes: Axes, run: RunHistory, metric: str, color: str) -> None:
    value = next((_float(row["val"].get(metric)) for row in run.epochs if row["epoch"] == run.best_epoch), math.nan)
    if run.best_epoch is not None and math.isfinite(value):
        axes.plot([run.best_epoch], [value], color=color, label="best epoch", **_RING)


def _scale_epochs(axes: Axes, runs: Sequence[RunHistory]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    first = min(run.epochs[0]["epoch"] for run in runs)
    last = max(run.epochs[-1]["epoch"] for run in runs)
    if first == last:
        axes.set_xlim(first - 1, last + 0.5)


def _run_entries(runs: Sequence[RunHistory]) -> list[tuple[str, Artist]]:
    from matplotlib.lines import Line2D

    mixed = len({run.synthetic for run in runs}) == 2
    entries: list[tuple[str, Artist]] = []
    for index, label in enumerate(distinct([drawable(label) for label in run_labels(runs)])):
        suffix = " (synthetic data)" if mixed and runs[index].synthetic else ""
        entries.append((label + suffix, Line2D([], [], **_look(index, 1))))
    return entries


def _style_entries(runs: Sequence[RunHistory], panels: Sequence[Panel]) -> list[tuple[str, Artist]]:
    """Legend entries for the line styles and markers that the figure has."""
    from matplotlib.lines import Line2D

    metrics = [curve.metric for panel in panels for curve in panel.curves]
    colored = any(len(panel.curves) > 1 for panel in panels)
    single = len(runs) == 1
    color = SERIES[0] if single and not colored else MUTED
    entries: list[tuple[str, Artist]] = [
        ("train", Line2D([], [], color=color, linestyle="--", alpha=_TRAIN_ALPHA)),
        ("validation", Line2D([], [], color=color)),
    ]
    if any(run.best_epoch is not None for run in runs):
        entries.append(("best epoch", Line2D([], [], color=color, linestyle="none", **_RING)))
    if single and any(math.isfinite(_float(row.get(metric))) for row in runs[0].steps for metric in metrics):
        entries.append(("train, within epochs", Line2D([], [], linewidth=1.0, **_WITHIN_EPOCHS)))
    if any(_is_missing(row, metric) for run in runs for row in run.epochs for metric in metrics):
        entries.append(("not finite", Line2D([], [], color=WARNING, marker="x", linestyle="none")))
    return entries


def _look(index: int, num_epochs: int) -> dict[str, Any]:
    marker = _MARKERS[index // len(SERIES) % len(_MARKERS)]
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": marker,
        "markersize": 4.5 if num_epochs <= _MANY_EPOCHS else 1.8,
    }


def _is_missing(row: dict[str, Any], metric: str) -> bool:
    return any(metric in row[split] and row[split][metric] is None for split in ("train", "val"))


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
