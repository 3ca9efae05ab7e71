"""The result of `evaluate` as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from dbbd_cli.cli.terminal.layout import Parts, grid, grid_width, heading, section, synthetic, verbatim
from dbbd_cli.cli.terminal.text import clean_line, wrapped
from dbbd_cli.core.paths import shown_path
from dbbd_cli.report.tables import Note, Row, Section, Table, Values
from dbbd_cli.report.text import count
from dbbd_cli.services.results import EvaluateResult
from dbbd_cli.tasks.registry import get_task

_MAX_RANKED = 20
"""Rows that are shown of a table that can be ranked."""
_NAME_COLUMNS = 16
"""Width that the first column of a table needs at least; longer names wrap."""


def evaluate(result: EvaluateResult, width: int | None) -> Parts:
    """The whole report: what was evaluated, the tables of the task, and the files."""
    report: Mapping[str, Any] = result.report
    about = [
        ("Run", shown_path(result.run)),
        ("Checkpoint", shown_path(result.checkpoint)),
        ("Epoch", count(report["epoch"])),
        *synthetic(report["synthetic"]),
    ]
    where = f"the {report['split']} split" if report["split"] else shown_path(Path(report["data"]))
    parts = section(f"Evaluation on {where}", about, width)
    for part in get_task(report["task"]).tables(report):
        parts += _rendered(part, width)
    return [*parts, heading("Files"), verbatim(shown_path(path) for path in result.files)]


def _rendered(part: Section, width: int | None) -> Parts:
    if isinstance(part, Values):
        return section(part.title, list(part.rows), width)
    if isinstance(part, Note):
        lines = wrapped(clean_line(part.text), None if width is None else width - 1, "  ")
        text = Text("\n".join([*lines, ""]), style="yellow" if part.warning else "")
        return [heading(part.title), text] if part.title else [text]
    return _table(part, width)


def _table(table: Table, width: int | None) -> Parts:
    title, rows = table.title, table.rows
    if table.lowest and len(rows) > _MAX_RANKED:
        title += f": the {_MAX_RANKED} of {len(rows):,} with the lowest {table.lowest} (evaluation.json has all)"
        rows = tuple(rows[index] for index in table.ranking[:_MAX_RANKED])
    columns = _cleaned(table.columns)
    cells = [_cleaned(row) for row in rows]
    if table.short_columns and not _fits(table, columns, cells, width):
        columns = _cleaned(table.short_columns)
        if table.short_names:
            cells = [[clean_line(name), *row[1:]] for name, row in zip(table.short_names, cells, strict=True)]
        if table.short_rows and not _fits(table, columns, cells, width):
            cells = [_cleaned(row) for row in table.short_rows]
            title = table.short_title or title
    fits = _fits(table, columns, cells, width)
    if table.must_fit and not fits:
        return [heading(title), Text("  too wide for this terminal: see evaluation.json\n")]
    if table.footer:
        cells += [[""] * len(columns), *map(_cleaned, table.footer)]
    return [heading(title), grid(columns, cells, gap=2 if fits else 1)]


def _cleaned(row: Row) -> list[str]:
    return [clean_line(cell) for cell in row]


def _fits(table: Table, columns: list[str], rows: list[list[str]], width: int | None) -> bool:
    if width is None:
        return True
    if table.must_fit:
        return grid_width(columns, rows) + 2 <= width
    return grid_width(["", *columns[1:]], [["", *row[1:]] for row in rows]) + _NAME_COLUMNS <= width
