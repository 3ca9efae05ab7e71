"""Building blocks of results: headings, rows of names and values, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dbbd_cli.cli.terminal.text import clean_line, pairs
from dbbd_cli.core.paths import shown_path

Parts = list[RenderableType]
"""What rich prints, in order."""

Rows = list[tuple[str, str]]
"""Names with their values."""


def heading(text: str) -> Text:
    """A title."""
    return Text(clean_line(text), style="bold")


def verbatim(lines: Iterable[str], indent: str = "  ") -> Text:
    """Paths or commands, one per line, never wrapped, so that they can be copied."""
    return Text("\n".join(indent + clean_line(line) for line in lines), no_wrap=True)


def section(title: str, rows: Rows, width: int | None) -> Parts:
    """A title, rows of names and values, and an empty line."""
    text = heading(title)
    text.no_wrap = True
    for name, value in pairs(rows, width):
        style = "not bold bold yellow" if "SYNTHETIC" in value else "not bold"
        text.append(f"\n{name}", style="not bold cyan").append(value, style=style)
    return [text, Text("")]


def synthetic(is_synthetic: bool, data: str = "") -> Rows:
    """The row that says where the samples come from, and warns if they are synthetic."""
    if is_synthetic:
        said = "SYNTHETIC: these numbers say nothing about real data"
        return [("Data", f"{said}\n{data}" if data else said)]
    return [("Data", data)] if data else []


def listed(name: str, paths: Iterable[Path]) -> Rows:
    """One row per path, the name on the first row only."""
    return [(name if index == 0 else "", shown_path(path)) for index, path in enumerate(paths)]


def grid(headers: list[str], rows: Sequence[Sequence[str | Text]], *, left: int = 1, gap: int = 2) -> RenderableType:
    """A table without lines. The first `left` columns are left-aligned; only these fold on narrow terminals."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        if index < left:
            table.add_column(Text(header), overflow="fold")
        else:
            table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 1, 2), expand=False)


def grid_width(headers: list[str], rows: Sequence[Sequence[str | Text]]) -> int:
    """Width of a grid in which nothing folds."""
    cells = zip(headers, *([str(cell) for cell in row] for row in rows), strict=True)
    return sum(max(cell_len(cell) for cell in column) + 2 for column in cells)
