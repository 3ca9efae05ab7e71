"""The result of `evaluate` for DBBD pretraining as text and tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from dbbd_cli.cli.terminal.layout import Parts, Rows, grid, grid_width, heading
from dbbd_cli.cli.terminal.text import clean_line, count, metric_name, number, percent, wrapped
from dbbd_cli.core.text import counted
from dbbd_cli.report.text import ignored_labels

_MOST_CLASSES = 20
"""Classes that the table on the screen shows."""
_NARROW = 60
"""Columns under which headings are cut short."""
_MEASURES = ("loss", "region_loss", "point_loss", "alignment", "uniformity", "feature_std", "effective_rank")
_PROBED = ("miou", "mean_accuracy", "overall_accuracy")


def summary(report: Mapping[str, Any]) -> Rows:
    """What was evaluated, and the measures of all levels and scenes."""
    return [
        ("Scenes", count(report["num_samples"])),
        *([("Points", count(report["num_points"]))] if "num_points" in report else []),
        *((metric_name(name).capitalize(), number(report[name])) for name in _MEASURES if name in report),
        *([("Ignored labels", ignored_labels(report["ignored_labels"]))] if report.get("ignored_labels") else []),
    ]


def tables(report: Mapping[str, Any], width: int | None) -> Parts:
    """The loss of each level beside chance, and what a linear classifier reads from the features."""
    return [*_contrast(report["contrast"], width), *_probe(report["probe"], report["probe_missing"], width)]


def _contrast(contrast: Sequence[Mapping[str, Any]], width: int | None) -> Parts:
    rows: list[list[str | Text]] = [
        [
            clean_line(row["name"]),
            count(row["rows"]),
            number(row["loss"]),
            number(row["chance"]),
            percent(row["top1"]),
        ]
        for row in contrast
    ]
    title = heading("Contrast (chance: the loss of guessing)")
    return [title, grid(["", "Rows", "Loss", "Chance", "Top-1"], rows, gap=1 if _is_narrow(width) else 2)]


def _probe(probe: Mapping[str, Any] | None, missing: str, width: int | None) -> Parts:
    if probe is None:
        reason = f"not measured: {clean_line(missing)}" if missing else "not measured"
        return [heading("Linear probe"), Text("\n".join([*wrapped(reason, width, "  "), ""]))]
    about = f"trained on {counted(probe['train_scenes'], 'scene')}, tested on {count(probe['test_scenes'])}"
    narrow = _is_narrow(width)
    headers = ["", "mIoU", *(("Mean", "Overall") if narrow else ("Mean acc.", "Overall acc."))]
    rows: list[list[str | Text]] = [
        [clean_line(entry["name"]), *(percent(entry[key]) for key in _PROBED)] for entry in probe["features"]
    ]
    table = grid(headers, rows, gap=1 if narrow else 2)
    return [heading(f"Linear probe: {about}"), table, *_conclusion(probe, width), *_classes(probe, width)]


def _conclusion(probe: Mapping[str, Any], width: int | None) -> Parts:
    """Whether pretraining beat what it is compared with, in words; yellow where it did not."""
    if not probe.get("conclusion"):
        return []
    beaten = all(row["better"] == "yes" for row in probe["comparison"])
    lines = wrapped(clean_line(probe["conclusion"]), None if width is None else width - 1, "  ")
    return [Text("\n".join([*lines, ""]), style="" if beaten else "yellow")]


def _classes(probe: Mapping[str, Any], width: int | None) -> Parts:
    """The IoU of each class with each kind of features; of many classes, those that the first kind knows worst."""
    features = probe["features"]
    every = list(zip(probe["classes"], *(entry["per_class_iou"] for entry in features), strict=True))
    shown, title = every, "IoU of each class"
    if len(every) > _MOST_CLASSES:
        shown = sorted(every, key=lambda row: 2.0 if row[1] is None else row[1])[:_MOST_CLASSES]
        title = f"IoU: the {_MOST_CLASSES} of {len(every):,} classes with the lowest (evaluation.json has all)"
    names = [clean_line(entry["name"]) for entry in features]
    rows: list[list[str | Text]] = [[clean_line(name), *map(percent, ious)] for name, *ious in shown]
    if width is not None and grid_width(["", *names], [[""] * (len(names) + 1)]) + 16 > width:
        names = [name.split()[0] if name.split() else name for name in names]
    return [heading(title), grid(["", *names], rows, gap=1 if _is_narrow(width) else 2)]


def _is_narrow(width: int | None) -> bool:
    return width is not None and width < _NARROW
