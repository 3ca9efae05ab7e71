"""The panels of a training history: which metrics share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbbd_cli.core.metrics import is_share
from dbbd_cli.report.text import words
from dbbd_cli.runs.reading import RunHistory


@dataclass(frozen=True)
class Curve:
    """One metric of a panel.

    Attributes:
        metric: its name in the history.
        label: its label in the panel's legend; empty if it is the only one.
        color: its color; empty if each run has its own.
    """

    metric: str
    label: str = ""
    color: str = ""


@dataclass(frozen=True)
class Panel:
    """Metrics that share a scale.

    Attributes:
        title: the title.
        curves: the metrics, at least one.
        shares: whether the values are fractions, shown as percentages.
    """

    title: str
    curves: tuple[Curve, ...]
    shares: bool = False


def metric_panel(metric: str) -> Panel:
    """A panel for a single metric."""
    return Panel(words(metric), (Curve(metric),), shares=is_share(metric))


def shown_panels(runs: Sequence[RunHistory], panels: Sequence[Panel]) -> list[Panel]:
    """The panels to draw: the loss, those of `panels` that have values, and the metrics that decided the best epoch."""
    recorded = recorded_metrics(runs)
    panels = [replace(panel, curves=tuple(c for c in panel.curves if c.metric in recorded)) for panel in panels]
    shown = [metric_panel("loss"), *(panel for panel in panels if panel.curves)]
    metrics = {curve.metric for panel in shown for curve in panel.curves}
    return [*shown, *map(metric_panel, sorted({run.metric for run in runs} & recorded - metrics))]


def recorded_metrics(runs: Sequence[RunHistory]) -> set[str]:
    """The metrics that have a value in any epoch."""
    return {
        name
        for run in runs
        for row in run.epochs
        for split in ("train", "val")
        for name, value in row[split].items()
        if value is not None
    }
