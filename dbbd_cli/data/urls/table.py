"""Read a CSV file with a URL and a class in each row."""

from __future__ import annotations

import codecs
import csv
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.problems import UNPRINTABLE, shortened, unreadable

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_QUOTED = re.compile('"(?:[^"]|"")*"')
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\w\r\n])"?[\r\n]*', re.IGNORECASE)
"""A first line by which Excel tells itself the separator; it is not part of the table."""
_MOST_PROBLEMS = 100_000
_MOST_COLUMNS_NAMED, _LONGEST_COLUMN = 20, 40
_LONGEST_LINE = 1 << 20
_TOO_LONG = "x" * (csv.field_size_limit() + 1) + "\n"
"""Stands for a line that is too long: `csv` rejects the row for the length of its field."""


def read_url_table(path: Path, url_column: str, label_column: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Read the URL and the class of each row.

    The separator is a comma, a semicolon or a tab, whichever is most frequent in the first line outside quotes, or what
    a first line like `sep=;` says. The encoding is UTF-8, or UTF-16 if the file begins with its byte order mark, like
    Excel's "Unicode Text".

    Returns:
        The pairs (URL, class) in file order, and the problems of the other rows, one line each.

    Raises:
        DataError: the file is missing, unreadable or in another encoding, or lacks one of the columns.
    """
    if os.path.isdir(path):  # noqa: PTH112 - a Path raises where its name is too long
        raise DataError(
            f"{path} is a folder, not a CSV file",
            hint="set data.path to the file, or data.source to folder if its subfolders contain images",
        )
    with _opened(path) as lines:
        return _read_rows(path, lines, url_column, label_column)


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file; errors of reading them become ones for the user."""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would block forever
            raise DataError(f"{path} is not a regular file", hint="set data.path to a CSV file")
        encoding, errors = _encoding(path)
        with path.open(encoding=encoding, errors=errors, newline="") as file:
            yield _lines(path, file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} begins like UTF-16, but is not: {error.reason}", hint="save the table as CSV in UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, "data.path", error) from error


def _encoding(path: Path) -> tuple[str, str]:
    """The encoding of a file, and how to decode what is invalid: to lone surrogates, which `_fields` reports."""
    with path.open("rb") as file:
        head = file.read(4)
    is_utf16 = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and head != codecs.BOM_UTF32_LE
    return ("utf-16", "surrogatepass") if is_utf16 else ("utf-8-sig", "surrogateescape")


def _table(path: Path, lines: Iterator[str]) -> tuple[list[str], Iterator[tuple[str, list[str] | str]]]:
    """The names of the columns, and the rows as `_rows` yields them."""
    first = next(lines, "")
    if _NOT_TEXT.search(first):
        raise DataError(f"{path} is not a text file in UTF-8", hint="save the table as CSV in UTF-8")
    if given := _SEPARATOR_LINE.fullmatch(first):
        rows = _rows(lines, given[1], lines_before=1)
    else:
        rows = _rows(chain([first], lines), max(",;\t", key=_QUOTED.sub("", first).count))
    where, header = next(rows, ("line 2" if given else "line 1", "is empty"))
    if isinstance(header, str):
        raise DataError(f"{path} {where} {header}", hint="the first line must name the columns")
    return [name.strip() for name in header], rows


def _read_rows(
    path: Path, lines: Iterator[str], url_column: str, label_column: str
) -> tuple[list[tuple[str, str]], list[str]]:
    header, rows = _table(path, lines)
    places = {
        "URL": _column(path, header, url_column, "url_column"),
        "class": _column(path, header, label_column, "label_column"),
    }

    samples: list[tuple[str, str]] = []
    problems = []
    for where, row in rows:
        found = _fields(row, len(header), places)
        if isinstance(found, str):
            problems.append(f"{printable(path.name)} {where}: {found}")
            if len(problems) > _MOST_PROBLEMS:
                raise DataError(
                    f"{path} has more than {_MOST_PROBLEMS:,} unusable rows",
                    details=shortened(problems),
                    hint="check that it is the right table, and that all lines use the same separator",
                )
        else:
            url, label = found
            samples.append((url, label))
    return samples, problems


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, including line ends. Of one that is too long, little is kept in memory.

    Raises:
        DataError: the first line is too long, as in a file that is no table.
    """
    line = file.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise DataError(f"{path} has a line of over {_LONGEST_LINE:,} characters", hint="check that it is a CSV file")
    while line:
        yield line
        line = part = file.readline(_LONGEST_LINE)
        if len(part) == _LONGEST_LINE:
            line = _TOO_LONG
        while len(part) == _LONGEST_LINE and not part.endswith(("\n", "\r")):
            part = file.readline(_LONGEST_LINE)


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


def _rows(lines: Iterable[str], separator: str, *, lines_before: int = 0) -> Iterator[tuple[str, list[str] | str]]:
    """Each row that is not blank, or what is wrong with it, preceded by its line numbers in words."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        first = lines_before + reader.line_num + 1
        row: list[str] | str
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = f"is not valid CSV: {error}"
            if "field limit" in row:
                row = f"is not valid CSV: a field has over {csv.field_size_limit():,} characters"
        last = lines_before + reader.line_num
        where = f"line {first}" if last <= first else f"lines {first} to {last}"
        if row:
            yield where, row


def _fields(row: list[str] | str, width: int, places: Mapping[str, int]) -> list[str] | str:
    """The fields of a row at some places, given by what they hold, or why the row cannot be used.

    Args:
        row: the row, or what is wrong with it.
        width: number of columns.
        places: the column of each field, by what the field is called in messages.
    """
    if isinstance(row, str):
        return row
    if len(row) <= max(places.values()):
        return f"too few fields: {len(row)} instead of {width}"
    if any(field.strip() for field in row[width:]):
        return f"too many fields: {len(row)} instead of {width}; a URL that contains the separator must be quoted"
    found = []
    for name, place in places.items():
        found.append(row[place].strip())
        if not found[-1]:
            return f"the {name} is empty"
        if UNPRINTABLE.search(found[-1]):
            return f"the {name} has a control character, a line break, or bytes that are not UTF-8"
    return found


def iterate_urls(path: Path, url_column: str) -> Iterator[tuple[str, str, str]]:
    """Yield the URL of each row of a file of any size, read like `read_url_table` reads it; it needs no classes.

    Yields:
        Where the row stands, its URL, and why it cannot be used; one of the last two is empty.

    Raises:
        DataError: the file is unreadable or in another encoding, has no such column, or begins with a line that is too
            long.
    """
    with _opened(path) as lines:
        header, rows = _table(path, lines)
        index = _column(path, header, url_column, "url_column")
        for where, row in rows:
            found = _fields(row, len(header), {"URL": index})
            yield (where, "", found) if isinstance(found, str) else (where, found[0], "")


def is_table(path: str) -> bool:
    """Return whether a path is that of a CSV file, existing or not, rather than a folder."""
    path = os.path.expanduser(path)  # noqa: PTH111 - Path raises if the name is too long
    return os.path.isfile(path) or (path.lower().endswith(".csv") and not os.path.isdir(path))  # noqa: PTH112, PTH113
