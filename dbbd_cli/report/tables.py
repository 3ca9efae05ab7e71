"""Results of an evaluation as plain tables, which the terminal and the HTML page render.

A value that was not measured is left out, or shown as `MISSING` within a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from dbbd_cli.core.text import capitalized, counted
from dbbd_cli.report.evaluation import SHARED_FIELDS
from dbbd_cli.report.text import count, describe_metric, megabytes, number, significant, words

Row: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Values:
    """Named values under a title.

    Attributes:
        title: what they describe.
        rows: name and value of each.
    """

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Note:
    """A sentence.

    Attributes:
        text: the sentence.
        title: a heading; empty for none.
        warning: whether it says that something failed to work.
    """

    text: str
    title: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        title: what it shows.
        columns: the headers.
        rows: the cells, as many in each row as there are columns.
        short_columns: headers for narrow displays, if different.
        short_names: first cells to use with `short_columns`, if different.
        short_rows: the cells without intervals, to use with `short_columns` if these alone are still too wide.
        short_title: the title to use with `short_rows`.
        footer: further rows, such as means.
        lowest: what rows can be ranked by, such as "F1"; empty if all rows must be shown.
        ranking: the indices of the rows, lowest first, if `lowest` is set.
        must_fit: whether to omit the table if it is too wide for the display.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    short_columns: Row = ()
    short_names: Row = ()
    short_rows: tuple[Row, ...] = ()
    short_title: str = ""
    footer: tuple[Row, ...] = ()
    lowest: str = ""
    ranking: tuple[int, ...] = ()
    must_fit: bool = False


Section: TypeAlias = Values | Table | Note


def ranked(values: Sequence[float | None]) -> tuple[int, ...]:
    """The indices of values in ascending order, missing ones last."""
    return tuple(sorted(range(len(values)), key=lambda i: (values[i] is None, values[i] or 0.0)))


def measured(values: Mapping[str, Any], rows: Iterable[tuple[str, str, Any]]) -> list[tuple[str, str]]:
    """Name and formatted value of each row `(key, name, format)` whose key has a value."""
    return [(name, format_(values[key])) for key, name, format_ in rows if values.get(key) is not None]


def default_tables(evaluation: Mapping[str, Any], sample_unit: str) -> list[Section]:
    """Number of samples, loss, the numbers that the task has added, and efficiency."""
    rows = [("num_samples", capitalized(sample_unit), count), ("loss", "Loss", number)]
    added = [key for key, value in evaluation.items() if type(value) in (int, float) and key not in SHARED_FIELDS]
    rows += [(key, words(key), partial(describe_metric, key)) for key in added]
    return [
        Values("Metrics", tuple(measured(evaluation, rows))),
        *efficiency(evaluation.get("efficiency"), sample_unit),
    ]


def efficiency(facts: Mapping[str, Any] | None, sample_unit: str) -> list[Values]:
    """Size and speed of a model.

    Args:
        facts: `efficiency` of an evaluation; None if it was not measured.
        sample_unit: what samples are called, such as images.
    """
    if not facts:
        return []
    sample = sample_unit.removesuffix("s")
    batch = f", {counted(facts['batch_size'], sample)}" if facts.get("batch_size") is not None else ""
    rows = measured(
        facts,
        [
            ("parameters", "Parameters", count),
            ("size_mb", "Size", megabytes),
            ("multiply_adds", "Multiply-adds", lambda value: f"{value / 1e6:,.1f} million per {sample}"),
            ("ms_per_sample", f"Time per {sample}", _spread),
            ("ms_per_batch", "Time per batch", lambda value: _spread(value) + batch),
            ("samples_per_second", "Throughput", lambda value: f"{value:,.1f} {sample_unit}/s{_points(facts)}"),
            ("peak_memory_mb", "Peak memory", megabytes),
            ("device", "Device", str),
            ("precision", "Precision", str),
        ],
    )
    return [Values("Efficiency", tuple(rows))]


def _points(facts: Mapping[str, Any]) -> str:
    return f", {facts['points_per_second']:,.0f} points/s" if facts.get("points_per_second") is not None else ""


def _spread(milliseconds: Mapping[str, float | None]) -> str:
    """The median and the range that holds 80% of the measurements."""
    low, high = milliseconds.get("p10"), milliseconds.get("p90")
    spread = "" if low is None or high is None else f" ({significant(low)} to {significant(high)})"
    return f"{significant(milliseconds.get('median'))} ms{spread}"


def about(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was evaluated: checkpoint, split, epoch and kind of data."""
    synthetic = evaluation.get("synthetic")
    data = [] if synthetic is None else [("Data", "synthetic" if synthetic else "real")]
    rows = [
        ("checkpoint", "Checkpoint", str),
        ("split", "Split", str),
        ("data", "Other data", str),
        ("epoch", "Epoch", count),
    ]
    return [*measured(evaluation, rows), *data]
