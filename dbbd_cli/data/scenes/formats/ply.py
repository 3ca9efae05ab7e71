"""Reads the points of a PLY file, ASCII or binary, with any properties, including lists.

Every size that the header declares is checked against the file before anything is allocated.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.formats.ply_header import Element, read_header
from dbbd_cli.data.scenes.formats.ply_lists import Field, ListError, end_of_rows, read_rows

_MAX_DATA_LINE = 1 << 20
_MAX_BLANK = 10_000
_MAX_SKIPPED = 1_000_000
"""Lines that are skipped before the points of an ASCII file; so many take about a second."""
_MAX_ROWS = 100_000_000
"""Rows with lists that are skipped before the points of a binary file; if all are alike, so many take a second."""
_NOT_FINITE = re.compile(r"[-+]?(?:\d\.#[A-Za-z]+\d*|nan\([^()\s]*\))")
"""NaN and infinity as programs built with Microsoft's compilers write them: `-nan(ind)`, `1.#QNAN`, `-1.#IND`."""
_MOST_LINES, _MOST_CHARACTERS = 1 << 16, 1 << 23
"""Lines with lists that are read together, and about how much text."""


def read_ply(path: Path, max_points: int) -> dict[str, np.ndarray]:
    """Reads the properties of the element `vertex`; other elements and their lists are skipped.

    Args:
        path: the file.
        max_points: most vertices.

    Returns:
        Property name, in lower case, to its values, shape (N,), in the type that the file declares; a file in ASCII
        gives float64 for all but whole numbers, and for those that are too large for their type.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no PLY, is truncated, promises too much or has odd values; the message says which.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        order, elements = read_header(file)
        before = list(takewhile(lambda element: element.name != "vertex", elements))
        if len(before) == len(elements):
            raise ValueError("has no points: its header names no element vertex")
        points = elements[len(before)]
        if points.count > max_points:
            raise ValueError(
                f"promises {points.count:,} points; at most {max_points:,} are read: thin it out first, for example "
                "in CloudCompare"
            )
        if not points.numbers:
            raise ValueError("has nothing but lists, or nothing at all, as properties of its points")
        if order == "=":
            return _read_ascii(file, before, points, size)
        if sum(element.count for element in before if element.has_lists) > _MAX_ROWS:
            raise ValueError(f"has more than {_MAX_ROWS:,} lists before its points; put the element vertex first")
        for element in before:
            _skip_binary(file, element, size)
        return (_read_lists if points.has_lists else _read_binary)(file, points, size)


def _named(element: Element, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    # Where a name occurs twice, the first counts.
    pairs = zip(element.numbers, columns, strict=True)
    return {p.name: column for p, column in reversed(list(pairs))}


def _read_binary(file: BinaryIO, element: Element, size: int) -> dict[str, np.ndarray]:
    needed = element.count * element.least_size
    left = size - file.tell()
    if needed > left:
        raise ValueError(f"is truncated: {element.count:,} points need {needed:,} bytes, and it has {left:,}")
    row = np.dtype([(f"f{i}", p.dtype) for i, p in enumerate(element.properties)])
    points = np.frombuffer(file.read(needed), row)
    if len(points) != element.count:  # it shrank since its size was taken
        raise ValueError("is truncated")
    return _native(element, [points[f"f{i}"] for i in range(len(element.properties))])


def _read_lists(file: BinaryIO, element: Element, size: int) -> dict[str, np.ndarray]:
    place = file.tell()
    try:
        columns, _ = read_rows(_mapped(file), place, element.count, element.properties)
    except ListError as error:
        raise ValueError(f"{error} within its element {_shown(element)}") from error
    return _native(element, columns)


def _native(element: Element, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    return _named(element, [column.astype(column.dtype.newbyteorder("=")) for column in columns])


def _mapped(file: BinaryIO) -> np.ndarray:
    return np.asarray(np.memmap(file, np.uint8, "r"))


def _read_ascii(file: BinaryIO, before: list[Element], element: Element, size: int) -> dict[str, np.ndarray]:
    width = len(element.properties)
    if element.count * 2 * width > size - file.tell() + 1:  # each value takes a digit and a separator
        raise ValueError(f"is truncated: it is too small for the {element.count:,} points that it promises")
    if sum(other.count for other in before if other.properties) > _MAX_SKIPPED:
        raise ValueError(f"has more than {_MAX_SKIPPED:,} lines before its points; put the element vertex first")
    lines = _lines(file)
    for other in before:
        if other.properties and sum(1 for _ in islice(lines, other.count)) < other.count:
            raise ValueError(f"is truncated within its element {_shown(other)}")
    if element.has_lists:
        first = next(lines, "")
        lines = chain([first], lines)
        # Blender 2.7 moves the list of a mesh without faces to its points, and writes no values for it.
        if len(first.split()) == len(element.numbers):
            element = replace(element, properties=element.numbers)
    columns = (_lines_with_lists if element.has_lists else _lines_of_numbers)(lines, element)
    return _named(element, [_as_declared(column, p.dtype) for column, p in zip(columns, element.numbers, strict=True)])


def _lines_of_numbers(lines: Iterator[str], element: Element) -> list[np.ndarray]:
    width = len(element.properties)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is answered below
            rows = np.loadtxt(lines, np.float64, comments=None, max_rows=element.count, ndmin=2, encoding="latin1")
    except _LineError:
        raise
    except ValueError as error:
        raise _odd_line(error, f"{width} numbers") from error
    if len(rows) < element.count:
        raise _missing_lines(element, len(rows))
    if not element.count:
        rows = rows.reshape(0, width)
    if rows.shape[1] != width:
        raise ValueError(f"has {rows.shape[1]} numbers in a line; its header names {width} properties")
    return list(rows.T)


def _lines_with_lists(lines: Iterator[str], element: Element) -> list[np.ndarray]:
    """The numbers of each line that do not belong to a list."""
    fields = [Field(np.dtype(np.float64), None if p.length is None else np.dtype(np.int64)) for p in element.properties]
    found: list[list[np.ndarray]] = [[] for _ in element.numbers]
    done = 0
    while done < element.count:
        part: list[str] = []
        characters = 0
        for line in islice(lines, min(element.count - done, _MOST_LINES)):
            part.append(line)
            characters += len(line)
            if characters > _MOST_CHARACTERS:
                break
        if not part:
            raise _missing_lines(element, done)
        done += len(part)
        try:
            values = np.fromiter(map(float, "".join(part).split()), np.float64)
            whole = np.where(np.abs(values) < 2**53, values, -1)
            lengths = np.where(whole == np.rint(whole), whole, -1).astype(np.int64)
            columns, end = read_rows(
                lengths.view(np.uint8), 0, len(part), fields, values=np.ascontiguousarray(values).view(np.uint8)
            )
            if end != values.nbytes:
                raise ListError("more numbers than its lists have")
        except ValueError as error:
            raise _odd_line(error, "the numbers and lists that its header names") from error
        for parts, column in zip(found, columns, strict=True):
            parts.append(column)
    return [np.concatenate([np.empty(0), *parts]) for parts in found]


def _odd_line(error: Exception, expected: str) -> ValueError:
    return ValueError(f"has a line that does not hold {expected} ({printable(str(error).split(';')[0][:200])})")


def _missing_lines(element: Element, found: int) -> ValueError:
    return ValueError(f"is truncated: it has {found:,} of the {element.count:,} points that it promises")


def _as_declared(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values  # float64 keeps the digits that are there, whatever was declared
    limits = np.iinfo(dtype)
    # Not <= limits.max, which a float64 rounds up where it has 64 bits.
    fits = len(values) == 0 or (values.min() >= limits.min and values.max() < float(limits.max + 1))
    return values.astype(dtype) if fits and np.array_equal(values, np.rint(values)) else values


class _LineError(ValueError):
    """A file in ASCII is not made of lines as one would write them."""


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines that are not blank, with any line ending."""
    blank = 0
    text = io.TextIOWrapper(file, "latin1", newline=None)
    while line := text.readline(_MAX_DATA_LINE):
        if not line.isspace():
            blank -= 1  # a file may be double-spaced
            if "#" in line or "(" in line:
                line = _NOT_FINITE.sub("nan", line)
            yield line
            if len(line) == _MAX_DATA_LINE:  # a hole in the file is a line without end
                raise _LineError("has a line that is too long")
        elif (blank := blank + 1) > _MAX_BLANK:
            raise _LineError(f"has {_MAX_BLANK:,} more blank lines than others")


def _skip_binary(file: BinaryIO, element: Element, size: int) -> None:
    place = file.tell()
    try:
        if element.has_lists:
            end = end_of_rows(_mapped(file), place, element.count, element.properties)
        else:
            end = min(place + element.count * element.least_size, size)
    except ListError as error:
        raise ValueError(f"{error} within its element {_shown(element)}") from error
    file.seek(end)


def _shown(element: Element) -> str:
    return printable(element.name[:60])
