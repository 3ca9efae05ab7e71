"""Read a CSV file with a URL and a class in each row."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.problems import UNPRINTABLE, shortened, unreadable

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_MOST_PROBLEMS = 100_000
_MOST_COLUMNS_NAMED, _LONGEST_COLUMN = 20, 40
_LONGEST_LINE = 1 << 20


def read_url_table(path: Path, url_column: str, label_column: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Read the URL and the class of each row.

    The separator is a comma, a semicolon or a tab, whichever is most frequent in the first line.

    Returns:
        The pairs (URL, class) in file order, and the problems of the other rows, one line each.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8, or lacks one of the columns.
    """
    if os.path.isdir(path):  # noqa: PTH112 - a Path raises where its name is too long
        raise DataError(
            f"{path} is a folder, not a CSV file",
            hint="set data.path to the file, or data.source to folder if its subfolders contain images",
        )
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would block forever
            raise DataError(f"{path} is not a regular file", hint="set data.path to a CSV file")
        # Bytes that are not UTF-8 become lone surrogates, which `_sample` reports with their line.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return _read_rows(path, _lines(path, file), url_column, label_column)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, "data.path", error) from error


def _read_rows(
    path: Path, lines: Iterator[str], url_column: str, label_column: str
) -> tuple[list[tuple[str, str]], list[str]]:
    first = next(lines, "")
    if _NOT_TEXT.search(first):
        raise DataError(f"{path} is not a text file in UTF-8", hint="save the table as CSV in UTF-8")
    separator = max(",;\t", key=first.count)
    rows = _rows(chain([first], lines), separator)
    where, header = next(rows, ("line 1", "is empty"))
    if isinstance(header, str):
        raise DataError(f"{path} {where} {header}", hint="the first line must name the columns")
    header = [name.strip() for name in header]
    url_index = _column(path, header, url_column, "url_column")
    label_index = _column(path, header, label_column, "label_column")

    samples: list[tuple[str, str]] = []
    problems = []
    for where, row in rows:
        sample = row if isinstance(row, str) else _sample(row, len(header), url_index, label_index)
        if isinstance(sample, str):
            problems.append(f"{printable(path.name)} {where}: {sample}")
            if len(problems) > _MOST_PROBLEMS:
                raise DataError(
                    f"{path} has more than {_MOST_PROBLEMS:,} unusable rows",
                    details=shortened(problems),
                    hint="check that it is the right table, and that all lines use the same separator",
                )
        else:
            samples.append(sample)
    return samples, problems


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, including line ends, whose length is limited to save memory."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise DataError(
                f"{path} has a line of over {_LONGEST_LINE:,} characters", hint="check that it is a CSV file"
            )
        yield line


def _column(path: Path, header: list[str], name: str, setting: str) -> int:
    if name in header:
        return header.index(name)
    spelled = {column.lower(): column for column in header}
    near = difflib.get_close_matches(name.lower(), spelled, n=1)
    named = [column[:_LONGEST_COLUMN] for column in header[:_MOST_COLUMNS_NAMED]]
    columns = ", ".join(named) + (", ..." if len(header) > _MOST_COLUMNS_NAMED else "")
    raise DataError(
        f"{path} has no column {name}; its columns are: {printable(columns)}",
        hint=(f"did you mean {printable(spelled[near[0]])}? If so, " if near else "")
        + f"choose the column with --set data.{setting}=NAME",
    )


def _rows(lines: Iterable[str], separator: str) -> Iterator[tuple[str, list[str] | str]]:
    """Each row that is not blank, or what is wrong with it, preceded by its line numbers in words."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        row: list[str] | str
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = f"is not valid CSV: {error}"
        where = f"line {first}" if reader.line_num <= first else f"lines {first} to {reader.line_num}"
        if row:
            yield where, row


def _sample(row: list[str], width: int, url_index: int, label_index: int) -> tuple[str, str] | str:
    """The URL and the class of a row, or why it cannot be used."""
    if len(row) <= max(url_index, label_index):
        return f"too few fields: {len(row)} instead of {width}"
    if any(field.strip() for field in row[width:]):
        return f"too many fields: {len(row)} instead of {width}; a URL that contains the separator must be quoted"
    url, label = row[url_index].strip(), row[label_index].strip()
    for name, text in (("URL", url), ("class", label)):
        if not text:
            return f"the {name} is empty"
        if UNPRINTABLE.search(text):
            return f"the {name} has a control character, a line break, or bytes that are not UTF-8"
    return url, label


def iterate_urls(path: Path, url_column: str) -> Iterator[tuple[str, str, str]]:
    """Yield the URL of each row of a CSV file of any size; it needs no classes.

    Yields:
        Where the row stands, its URL, and why it cannot be used; one of the last two is empty.

    Raises:
        DataError: the file is unreadable or not UTF-8, has no such column, or has a line that is too long.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = _lines(path, file)
            first = next(lines, "")
            if _NOT_TEXT.search(first):
                raise DataError(f"{path} is not a text file in UTF-8", hint="save the table as CSV in UTF-8")
            separator = max(",;\t", key=first.count)
            rows = _rows(chain([first], lines), separator)
            where, header = next(rows, ("line 1", "is empty"))
            if isinstance(header, str):
                raise DataError(f"{path} {where} {header}", hint="the first line must name the columns")
            names = [name.strip() for name in header]
            index = _column(path, names, url_column, "url_column")
            for where, row in rows:
                url, problem = ("", row) if isinstance(row, str) else _url(row, len(names), index)
                yield where, url, problem
    except (OSError, ValueError) as error:
        raise unreadable(path, "the path", error) from error


def _url(row: list[str], width: int, index: int) -> tuple[str, str]:
    """The URL of a row, and why it cannot be used."""
    if len(row) <= index:
        return "", f"too few fields: {len(row)} instead of {width}"
    if any(field.strip() for field in row[width:]):
        return "", f"too many fields: {len(row)} instead of {width}; a URL that contains the separator must be quoted"
    url = row[index].strip()
    if not url:
        return "", "the URL is empty"
    if UNPRINTABLE.search(url):
        return "", "the URL has a control character, a line break, or bytes that are not UTF-8"
    return url, ""


def is_table(path: str) -> bool:
    """Return whether a path is that of a CSV file, existing or not, rather than a folder."""
    path = os.path.expanduser(path)  # noqa: PTH111 - Path raises if the name is too long
    return os.path.isfile(path) or (path.lower().endswith(".csv") and not os.path.isdir(path))  # noqa: PTH112, PTH113
