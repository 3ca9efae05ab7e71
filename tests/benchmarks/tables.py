"""The tables of a benchmark run. A row is the entry of a case in the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cases import Case
from rich import box
from rich.table import Table

Row = Mapping[str, Any]
MIN_CHANGE = 0.05
"""Relative changes of the score below this are noise, whatever the spread of the runs."""


def reaches(row: Row, bound: float | None) -> bool:
    """Return whether the score is at least as good as the bound, or there is no bound."""
    if bound is None:
        return True
    return row["score"] >= bound if row["better"] == "higher" else row["score"] <= bound


def verdict(row: Row) -> str:
    """Return `met` or `missed` (the target), `FAILED` (limit exceeded, or an error), `skipped`, or an empty string."""
    if "skipped" in row:
        return "skipped"
    if "error" in row or not reaches(row, row["limit"]):
        return "FAILED"
    if row["limit_mb"] is not None and row["peak_mb"] is not None and row["peak_mb"] > row["limit_mb"]:
        return "FAILED"
    if row["target"] is None:
        return ""
    return "met" if reaches(row, row["target"]) else "missed"


def results(rows: Sequence[Row], cases: Sequence[Case]) -> Table:
    """Time, score, target, limit and memory of each case, in 80 columns; without rows, the targets and limits."""
    table = plain_table("case", "time", "score", "unit", "target", "limit", "MB", "")
    if not rows:
        rows = [vars(case) for case in cases]
    for row in rows:
        sign = ">=" if row["better"] == "higher" else "<="
        table.add_row(
            row["name"],
            seconds(row.get("seconds")),
            number(row.get("score")),
            row["unit"],
            "" if row["target"] is None else sign + number(row["target"]),
            "" if row["limit"] is None else number(row["limit"]),
            "" if row.get("peak_mb") is None else f"{row['peak_mb']:.0f}",
            verdict(row) if "score" in row else "",
        )
    return table


def comparison(old: Sequence[Row], new: Sequence[Row]) -> Table:
    """Old and new score of each case in both runs, with the current targets and limits."""
    before = {row["name"]: row for row in old if row.get("score") is not None}
    table = plain_table("case", "old", "new", "unit", "change", "")
    for row in new:
        if row.get("score") is not None and row["name"] in before:
            was = before[row["name"]]
            table.add_row(
                row["name"],
                number(was["score"]),
                number(row["score"]),
                row["unit"],
                f"{100 * (row['score'] / was['score'] - 1):+.1f} %",
                change(was, row),
            )
    return table


def change(old: Row, new: Row) -> str:
    """Return `worse` or `better`, or an empty string if the change is within the noise of both runs."""
    relative = new["score"] / old["score"] - 1
    if abs(relative) <= max(MIN_CHANGE, old.get("spread", 0.0) + new.get("spread", 0.0)):
        return ""
    return "better" if (relative > 0) == (new["better"] == "higher") else "worse"


def number(value: float | None) -> str:
    """Return a number with three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Return a time in milliseconds or seconds."""
    if value is None:
        return "-"
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def markdown(rows: Sequence[Row]) -> str:
    """The results as a Markdown table."""
    lines = ["| case | time | score | target | limit | peak MB | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≥ " if row["better"] == "higher" else "≤ "
        score = "-" if row["score"] is None else f"{number(row['score'])} {row['unit']}"
        target = "" if row["target"] is None else sign + number(row["target"])
        limit = "" if row["limit"] is None else number(row["limit"])
        memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}"
        cells = (f"`{row['name']}`", seconds(row["seconds"]), score, target, limit, memory, verdict(row))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plain_table(*columns: str) -> Table:
    """Create a table without lines between rows."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        words = name in ("case", "operator", "unit", "")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    return table
