"""Which metrics the figure of a training shows, panel by panel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dbbd_cli.report.check import PRETRAINING_TASK
from dbbd_cli.runs.reading import RunHistory
from dbbd_cli.report.style import SERIES
from dbbd_cli.report.text import words

_POINTS = SERIES[2]
_REGIONS = SERIES[1]
# More would hide each other: of a deep tree the first levels.
_LEVELS = (SERIES[1], SERIES[3], SERIES[4], SERIES[5], SERIES[0])


@dataclass(frozen=True)
class Curve:
    """One metric of a panel.

    Attributes:
        metric: its name in the history.
        label: what the panel calls it; empty where the title says it all.
        color: empty where each run has a color of its own.
    """

    metric: str
    label: str = ""
    color: str = ""


@dataclass(frozen=True)
class Panel:
    """Metrics that share a scale.

    Attributes:
        title: what the panel shows.
        curves: its metrics, at least one.
        shares: whether the values are shares of 1, to be shown as percentages.
    """

    title: str
    curves: tuple[Curve, ...]
    shares: bool = False


def history_panels(runs: Sequence[RunHistory]) -> list[Panel]:
    """The panels for the runs: the loss first, then what the runs have in common and says most."""
    loss = _single("loss")
    names = _names(runs)
    pretraining = [run.task == PRETRAINING_TASK for run in runs]
    if not any(pretraining):
        # Accuracy, else the first one by name.
        second = ["accuracy"] if "accuracy" in names else sorted(names - {"loss"})[:1]
        deciding = sorted({run.metric for run in runs} & names)
        return [loss, *map(_single, dict.fromkeys([*second, *(name for name in deciding if name != "loss")]))]
    if not all(pretraining):
        return [loss]
    wanted = _of_one_run(names) if len(runs) == 1 else _of_several_runs()
    panels = [Panel(p.title, tuple(c for c in p.curves if c.metric in names), p.shares) for p in wanted]
    return [loss, *(panel for panel in panels if panel.curves)]


def _single(metric: str) -> Panel:
    return Panel(words(metric), (Curve(metric),), shares=metric == "accuracy")


def _of_one_run(names: set[str]) -> list[Panel]:
    levels = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"top1_level_([0-9]{1,2})", name)))
    by_level = [Curve(f"top1_level_{level}", f"{level}", color) for level, color in zip(levels, _LEVELS, strict=False)]
    parts = (Curve("region_loss", "regions", _REGIONS), Curve("point_loss", "points", _POINTS))
    return [
        Panel("Parts of the loss", parts),
        Panel("Top-1 by level", (*by_level, Curve("point_top1", "points", _POINTS)), shares=True),
        Panel("Spread of the features", (Curve("feature_std"),)),
        Panel("Effective rank of the features", (Curve("effective_rank"),)),
    ]


def _of_several_runs() -> list[Panel]:
    return [
        _single("region_loss"),
        _single("point_loss"),
        Panel("Top-1 of the points", (Curve("point_top1"),), shares=True),
        Panel("Effective rank of the features", (Curve("effective_rank"),)),
    ]


def _names(runs: Sequence[RunHistory]) -> set[str]:
    """The metrics that have a value anywhere."""
    return {
        name
        for run in runs
        for row in run.epochs
        for split in ("train", "val")
        for name, value in row[split].items()
        if value is not None
    }
