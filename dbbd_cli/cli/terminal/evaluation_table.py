"""The result of `evaluate` as text and tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from dbbd_cli.cli.terminal import pretraining_table
from dbbd_cli.cli.terminal.layout import Parts, Rows, grid, grid_width, heading, section, synthetic, verbatim
from dbbd_cli.cli.terminal.text import clean_line, count, megabytes, number, percent
from dbbd_cli.core.paths import shown_path
from dbbd_cli.core.text import counted
from dbbd_cli.services.results import EvaluateResult

_MOST_CLASSES = 20
"""Classes that the table on the screen shows."""
_LARGEST_MATRIX = 10
"""Classes up to which the confusion matrix is shown on the screen."""


def evaluate(result: EvaluateResult, width: int | None) -> Parts:
    """The whole report: summary, what was measured for each class or level, efficiency, files."""
    report: Mapping[str, Any] = result.report
    pretraining = report["task"] == "dbbd"
    rows = [
        ("Run", shown_path(result.run)),
        ("Checkpoint", shown_path(result.checkpoint)),
        ("Epoch", count(report["epoch"])),
        *synthetic(report["synthetic"]),
        *(pretraining_table.summary(report) if pretraining else _summary(report)),
    ]
    return [
        *section(f"Evaluation on the {report['split']} split", rows, width),
        *(
            pretraining_table.tables(report, width)
            if pretraining
            else [*_classes(report, width), *_confusion(report, width)]
        ),
        *section("Efficiency", _efficiency(report["efficiency"], "scenes" if pretraining else "images"), width),
        heading("Files"),
        verbatim(shown_path(path) for path in result.files),
    ]


def _summary(report: Mapping[str, Any]) -> Rows:
    at_rate = report["recall_at_fpr"] or {}
    optional = [
        ("ROC AUC", number(report["roc_auc"])),
        ("Average precision", number(report["average_precision"])),
        *((f"Recall at {float(rate) * 100:g}% FPR", percent(value)) for rate, value in at_rate.items()),
    ]
    positive = report["positive_class"]
    return [
        ("Images", count(report["num_samples"])),
        ("Accuracy", percent(report["accuracy"])),
        ("Loss", number(report["loss"])),
        *([("Positive class", str(positive))] if positive is not None else []),
        *((name, value) for name, value in optional if value != "-"),
        ("Calibration error", number(report["expected_calibration_error"])),
    ]


def _classes(report: Mapping[str, Any], width: int | None) -> Parts:
    every = report["per_class"]
    shown = every
    title = "Classes"
    if len(every) > _MOST_CLASSES:
        shown = sorted(every, key=lambda entry: entry["f1"])[:_MOST_CLASSES]
        title = f"Classes: the {_MOST_CLASSES} of {len(every):,} with the lowest F1 (evaluation.json has all)"
    narrow = width is not None and width < 60
    headers = ["Class", "Prec." if narrow else "Precision", "Recall", "F1", "Count" if narrow else "Support"]
    rows: list[list[str | Text]] = [
        [clean_line(entry["class"]), *_scores(entry), count(entry["support"])] for entry in shown
    ]
    means: list[list[str | Text]] = [[f"{name} mean", *_scores(report[name]), ""] for name in ("macro", "weighted")]
    return [heading(title), grid(headers, [*rows, ["", "", "", "", ""], *means], gap=1 if narrow else 2)]


def _scores(entry: Mapping[str, Any]) -> list[str]:
    return [number(entry[name]) for name in ("precision", "recall", "f1")]


def _confusion(report: Mapping[str, Any], width: int | None) -> Parts:
    """Counts, a row for each true class, with the names of the classes above the columns or else their numbers."""
    names = [clean_line(name) for name in report["classes"]]
    if len(names) > _LARGEST_MATRIX:
        return []
    numbers = [f"{index}" for index in range(1, len(names) + 1)]
    counts = [[count(value) for value in row] for row in report["confusion_matrix"]]
    named: list[list[str | Text]] = [[name, *row] for name, row in zip(names, counts, strict=True)]
    numbered: list[list[str | Text]] = [
        [f"{index} {name}", *row] for index, name, row in zip(numbers, names, counts, strict=True)
    ]
    title = heading("Confusion matrix (rows: true class, columns: predicted class)")
    for headers, rows in ((["", *names], named), (["", *numbers], numbered)):
        if width is None or grid_width(headers, rows) + 2 <= width:
            return [title, grid(headers, rows)]
    return [title, Text("  too wide for this terminal: see evaluation.json\n")]


def _efficiency(facts: Mapping[str, Any], sample_unit: str) -> Rows:
    size = facts["batch_size"]
    throughput = f"{facts['samples_per_second']:,.1f} {sample_unit}/s"
    if "points_per_second" in facts:
        throughput += f", {facts['points_per_second']:,.0f} points/s"
    return [
        ("Parameters", count(facts["parameters"])),
        ("Size", megabytes(facts["size_mb"])),
        *(
            [("Multiply-adds", f"{facts['multiply_adds'] / 1e6:,.1f} million per image")]
            if "multiply_adds" in facts
            else []
        ),
        *([("Time per image", _spread(facts["ms_per_sample"]))] if "ms_per_sample" in facts else []),
        ("Time per batch", f"{_spread(facts['ms_per_batch'])}, {counted(size, sample_unit[:-1])}"),
        ("Throughput", throughput),
        ("Peak memory", megabytes(facts["peak_memory_mb"])),
        ("Device", facts["device"]),
        ("Precision", facts["precision"]),
    ]


def _spread(milliseconds: Mapping[str, float]) -> str:
    """The median and, in brackets, the range in which 80 % of the measurements fall."""
    return f"{milliseconds['median']:.4g} ms ({milliseconds['p10']:.4g} to {milliseconds['p90']:.4g})"
