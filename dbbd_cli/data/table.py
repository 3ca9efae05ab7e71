"""Read columns of a CSV or Parquet file."""

from __future__ import annotations

import codecs
import csv
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.problems import UNPRINTABLE, shortened, unreadable

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_QUOTED = re.compile('"(?:[^"]|"")*"')
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\w\r\n])"?[\r\n]*', re.IGNORECASE)
"""A first line by which Excel tells itself the separator; it is not part of the table."""
PARQUET = ".parquet"
_ROWS_AT_ONCE = 64
_LONGEST_REASON = 200
_MOST_PROBLEMS = 100_000
_MOST_COLUMNS_NAMED, _LONGEST_COLUMN = 20, 40
_LONGEST_LINE = 1 << 20
_TOO_LONG = "x" * (csv.field_size_limit() + 1) + "\n"
"""Stands for a line that is too long: `csv` rejects the row for the length of its field."""


@dataclass(frozen=True)
class Column:
    """A column that is read.

    Attributes:
        name: its name in the first line.
        setting: the setting that says so, in `data`.
        what: what a field is called in messages, such as URL.
        optional: whether a table may lack it.
        instead: what else may be meant by a table that lacks it, for the error.
    """

    name: str
    setting: str
    what: str
    optional: bool = False
    instead: str = ""


def read_table(path: Path, columns: Sequence[Column]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Read columns of a table; see `iterate_table`.

    Returns:
        The fields of each row, without those of optional columns that it lacks, and the problems of the other rows, one
        line each.

    Raises:
        DataError: see `iterate_table`; or very many rows cannot be used.
    """
    rows, problems = [], []
    for where, found in iterate_table(path, columns):
        if isinstance(found, str):
            problems.append(f"{printable(path.name)} {where}: {found}")
            if len(problems) > _MOST_PROBLEMS:
                raise DataError(
                    f"{path} has more than {_MOST_PROBLEMS:,} unusable rows",
                    details=shortened(problems),
                    hint="check that it is the right table, and that all lines use the same separator",
                )
        else:
            rows.append(found)
    return rows, problems


def iterate_table(path: Path, columns: Sequence[Column]) -> Iterator[tuple[str, tuple[str, ...] | str]]:
    """Yield the fields of each row of a file of any size, or why the row cannot be used, preceded by where it stands.

    A file `.parquet` is read as Parquet, every other as CSV: the separator is a comma, a semicolon or a tab, whichever
    is most frequent in the first line outside quotes, or what a first line like `sep=;` says; the encoding is UTF-8, or
    UTF-16 if the file begins with its byte order mark, like Excel's "Unicode Text".

    Raises:
        DataError: the file is missing, unreadable or in another encoding, lacks one of the columns, or begins with a
            line that is too long.
    """
    if os.path.isdir(path):  # noqa: PTH112 - a Path raises where its name is too long
        raise DataError(
            f"{path} is a folder, not a table",
            hint="set data.path to the file, or data.source to folder if its subfolders contain images",
        )
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - opening a named pipe would block
        raise DataError(f"{path} is not a regular file", hint="set data.path to a CSV or Parquet file")
    if path.suffix.lower() == PARQUET:
        with _opened_parquet(path) as table:
            yield from _parquet_rows(path, table, columns)
        return
    with _opened(path) as lines:
        header, rows = _table(path, lines)
        places = _places(path, header, columns)
        for where, row in rows:
            yield where, _fields(row, len(header), places)


def column_names(path: Path) -> list[str]:
    """The names of the columns of a table.

    Raises:
        DataError: see `iterate_table`.
    """
    if path.suffix.lower() == PARQUET:
        with _opened_parquet(path) as table:
            return list(table.schema_arrow.names)
    with _opened(path) as lines:
        return _table(path, lines)[0]


@contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    """A Parquet file; errors of reading it become ones for the user."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{path} is a Parquet file, and the package pyarrow is not installed",
            hint="pip install 'dbbd-cli[parquet]', or save the table as CSV",
        ) from error
    try:
        with path.open("rb") as file:
            yield parquet.ParquetFile(file)
    except (ArrowException, ValueError) as error:  # ValueError: a text that is not UTF-8
        raise _damaged(path, error) from error
    except OSError as error:
        raise (_damaged(path, error) if error.errno is None else unreadable(path, "data.path", error)) from error


def _parquet_rows(path: Path, table: Any, columns: Sequence[Column]) -> Iterator[tuple[str, tuple[str, ...] | str]]:
    """The rows of a Parquet file, as `iterate_table` yields them, a few at a time."""
    import pyarrow

    schema, number = table.schema_arrow, 0
    places = _places(path, schema.names, columns)
    names = [schema.names[place] for place in places.values()]
    for name in names:
        if schema.names.count(name) > 1 or pyarrow.types.is_nested(schema.field(name).type):
            what = "occurs twice" if schema.names.count(name) > 1 else f"holds {schema.field(name).type}"
            raise DataError(f"{path}: its column {printable(name)} {what}", hint="write one text for each row")
    # Few rows, because a short file can hold very long texts many times.
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names):
        texts = [batch.column(name).cast(pyarrow.string()).to_pylist() for name in names]
        for row in zip(*texts, strict=True):
            number += 1
            yield f"row {number}", _checked(tuple((text or "").strip() for text in row), places)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = printable(str(error)[:_LONGEST_REASON])
    return DataError(
        f"{path} is not a valid Parquet file, or is damaged: {reason}", hint="write it anew, or save it as CSV"
    )


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file; errors of reading them become ones for the user."""
    try:
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


def _places(path: Path, header: list[str], columns: Sequence[Column]) -> dict[str, int]:
    """The place of each column that is there, by what its fields are called."""
    spelled = {name.lower() for name in header}
    # An optional column that is only spelled in another way is reported, not passed over.
    return {
        column.what: _place(path, header, column)
        for column in columns
        if not column.optional or column.name.lower() in spelled
    }


def _place(path: Path, header: list[str], column: Column) -> int:
    name = column.name
    if name in header:
        return header.index(name)
    spelled = {other.lower(): other for other in header}
    near = difflib.get_close_matches(name.lower(), spelled, n=1)
    named = [other[:_LONGEST_COLUMN] for other in header[:_MOST_COLUMNS_NAMED]]
    columns = ", ".join(named) + (", ..." if len(header) > _MOST_COLUMNS_NAMED else "")
    instead = f"; {column.instead}" if column.instead and not near else ""
    raise DataError(
        f"{path} has no column {name}; its columns are: {printable(columns)}",
        hint=(f"did you mean {printable(spelled[near[0]])}? If so, " if near else "")
        + f"choose the column with --set data.{column.setting}=NAME{instead}",
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


def _fields(row: list[str] | str, width: int, places: Mapping[str, int]) -> tuple[str, ...] | str:
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
        what = next(iter(places))
        return f"too many fields: {len(row)} instead of {width}; a {what} that contains the separator must be quoted"
    return _checked(tuple([row[place].strip() for place in places.values()]), places)


def _checked(fields: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...] | str:
    """The fields, or what is wrong with one of them, by its name."""
    for field, name in zip(fields, names, strict=True):
        if not field:
            return f"the {name} is empty"
        if len(field) > csv.field_size_limit():
            return f"the {name} has over {csv.field_size_limit():,} characters"
        if UNPRINTABLE.search(field):
            return f"the {name} has a control character, a line break, or bytes that are not UTF-8"
    return fields


def is_table(path: str) -> bool:
    """Return whether a path is that of a table, existing or not, rather than a folder."""
    path = os.path.expanduser(path)  # noqa: PTH111 - Path raises if the name is too long
    return os.path.isfile(path) or (path.lower().endswith((".csv", PARQUET)) and not os.path.isdir(path))  # noqa: PTH112, PTH113
