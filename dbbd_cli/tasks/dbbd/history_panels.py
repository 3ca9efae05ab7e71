"""The panels of the training history of DBBD."""

from __future__ import annotations

import re
from collections.abc import Collection

from dbbd_cli.report.history_panels import Curve, Panel, metric_panel
from dbbd_cli.report.style import SERIES

# Colors of the levels in a history; more levels would hide each other.
_LEVELS = (SERIES[1], SERIES[3], SERIES[4], SERIES[5], SERIES[0])
_REGIONS, _POINTS, _DESCRIPTION = SERIES[1], SERIES[2], SERIES[3]


def history_panels(metrics: Collection[str], num_runs: int) -> list[Panel]:
    """The panels of a training history beyond the loss; see `Task.history_panels`."""
    rank = Panel("Effective rank of the features", (Curve("effective_rank"),))
    described = "description_loss" in metrics
    if num_runs > 1:
        terms = ("region_loss", "point_loss", *(["description_loss"] if described else []))
        return [*map(metric_panel, (*terms, "point_top1")), rank]
    levels = sorted(int(found[1]) for name in metrics if (found := re.fullmatch(r"top1_level_([0-9]{1,2})", name)))
    by_level = [Curve(f"top1_level_{level}", f"{level}", color) for level, color in zip(levels, _LEVELS, strict=False)]
    parts = [Curve("region_loss", "regions", _REGIONS), Curve("point_loss", "points", _POINTS)]
    if described:
        parts.append(Curve("description_loss", "description", _DESCRIPTION))
    return [
        Panel("Loss terms", tuple(parts)),
        Panel("Top-1 by level", (*by_level, Curve("point_top1", "points", _POINTS)), shares=True),
        Panel("Standard deviation of the features", (Curve("feature_std"),)),
        rank,
    ]
