"""Read URLs, with or without their classes, from a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from dbbd_cli.data.table import Column, iterate_table, read_table


def read_url_table(path: Path, url_column: str, label_column: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Read the URL and the class of each row.

    Returns:
        The pairs (URL, class) in file order, and the problems of the other rows, one line each.

    Raises:
        DataError: see `read_table`.
    """
    columns = (_url(url_column), Column(label_column, "label_column", "class"))
    rows, problems = read_table(path, columns)
    return cast(list[tuple[str, str]], rows), problems


def iterate_urls(path: Path, url_column: str) -> Iterator[tuple[str, str, str]]:
    """Yield the URL of each row of a file of any size, read like `read_url_table` reads it; it needs no classes.

    Yields:
        Where the row stands, its URL, and why it cannot be used; one of the last two is empty.

    Raises:
        DataError: see `iterate_table`.
    """
    for where, found in iterate_table(path, [_url(url_column)]):
        yield (where, "", found) if isinstance(found, str) else (where, found[0], "")


def _url(name: str) -> Column:
    return Column(name, "url_column", "URL", instead="for a list of pictures, --set data.source=table")
