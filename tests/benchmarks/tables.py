"""The tables of a benchmark run. A row is what the JSON file holds of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cases import Case
from rich import box
from rich.table import Table

Row = Mapping[str, Any]
LEAST_CHANGE = 0.05
"""Changes below this part of the score are called noise, whatever the spread of the runs says."""


def reaches(row: Row, bound: float | None) -> bool:
    """Whether the score is at least as good as the bound; also where there is none."""
    if bound is None:
        return True
    return row["score"] >= bound if row["better"] == "higher" else row["score"] <= bound


def verdict(row: Row) -> str:
    """`met` or `missed` for the target, `FAILED` beyond a limit or after an error, `skipped`, or nothing to say."""
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
    """Time, score, target, limit and memory of each case; without rows, what is asked of every case.

    Eighty columns are enough for it.
    """
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
    """Old and new score of each case that both runs have; targets and limits are those of now."""
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
    """`worse` or `better`, or nothing where the change is no larger than the noise of both runs."""
    relative = new["score"] / old["score"] - 1
    if abs(relative) <= max(LEAST_CHANGE, old.get("spread", 0.0) + new.get("spread", 0.0)):
        return ""
    return "better" if (relative > 0) == (new["better"] == "higher") else "worse"


def number(value: float | None) -> str:
    """Three digits are enough."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A time in the unit that fits it."""
    if value is None:
        return "-"
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def markdown(rows: Sequence[Row]) -> str:
    """The same as lines of a Markdown file."""
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
    """A table without lines between its rows."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        words = name in ("case", "operator", "unit", "")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    return table
