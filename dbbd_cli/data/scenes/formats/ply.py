"""Read PLY files, ASCII or binary, with any properties, including lists.

This reader is our own: the well-kept libraries are GPL (plyfile), or allocate what a header declares without comparing
it with the size of the file. Here every size is checked first, and text and lists are read within limits.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.formats.blocks import BLOCK_POINTS, check_size_of_whole, slices
from dbbd_cli.data.scenes.formats.names import column_arrays
from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
    "i1": "i1", "u1": "u1", "i2": "i2", "u2": "u2", "i4": "i4", "u4": "u4", "f4": "f4", "f8": "f8",
}  # fmt: skip
_Order = Literal["=", "<", ">"]
_ORDERS: dict[str, _Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 1 << 22
_MAX_DATA_LINE = 1 << 20
_MAX_BLANK_LINES = 10_000
_MAX_SKIPPED_LINES = 1_000_000
"""Lines of other elements before the points of an ASCII file; skipping this many takes about a second."""
_MAX_LISTS = 2 * MAX_POINTS
"""Lists in and before the points of a binary file, read one by one in half a minute; OpenMVS writes two a point."""
_BLOCK = 1 << 16
"""Rows with lists that are read together."""
_NOT_A_NUMBER = re.compile(r"[-+]?(?:\d\.#[A-Za-z]+\d*|nan\([^()\s]*\))")
"""NaN and infinity as programs built with Microsoft's compilers write them: `-nan(ind)`, `1.#QNAN`, `-1.#IND`."""


@dataclass(frozen=True)
class _Property:
    """A number in each row, or a list of numbers.

    Attributes:
        written: its name in the file.
        dtype: type of the numbers.
        length: type of the length that precedes a list; None if the property is not a list.
    """

    written: str
    dtype: np.dtype
    length: np.dtype | None

    @property
    def name(self) -> str:
        """Its name in lower case."""
        return self.written.lower()


@dataclass(frozen=True)
class _Element:
    """An element: `count` rows with the same properties."""

    name: str
    count: int
    properties: list[_Property]

    @property
    def num_lists(self) -> int:
        """Lists in each row, whose length depends on them."""
        return len(self.properties) - len(self.numbers)

    @property
    def min_row_size(self) -> int:
        """Bytes of a row whose lists are empty."""
        return sum((p.length or p.dtype).itemsize for p in self.properties)

    @property
    def numbers(self) -> list[_Property]:
        """The properties that are not lists."""
        return [p for p in self.properties if p.length is None]

    def __str__(self) -> str:
        return f"element {printable(self.name[:60])}"


def read_ply(path: Path) -> SceneArrays:
    """Read a scene from a PLY file; see `reader` for what a reader returns and raises."""
    return column_arrays(read_vertices(path, MAX_POINTS))


def ply_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read the points of a file block by block; of text, and of points with lists, all at once.

    Raises:
        OSError, ValueError: as `read_ply`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        order, before, points = _read_until_vertices(file)
        if order != "=" and not points.num_lists:
            _skip_before(file, before, points, size)
            _check_left(file, points, size)
            for start in range(0, points.count, BLOCK_POINTS):
                count = min(BLOCK_POINTS, points.count - start)
                yield column_arrays(_read_binary(file, replace(points, count=count), size))
            return
    yield from slices(read_ply(path))


def read_vertices(path: Path, max_points: int) -> dict[str, np.ndarray]:
    """Read the numeric properties of the element `vertex`; lists and other elements are skipped.

    Args:
        path: the file.
        max_points: maximum number of vertices.

    Returns:
        Property name, in lower case, to its values, `(N,)`, in the declared type. An ASCII file gives float64 for all
        but integers, and for integers too large for their type.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a PLY file, is truncated or too large, or has invalid values; the message says which.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        check_size_of_whole(size)
        order, before, points = _read_until_vertices(file)
        if points.count > max_points:
            raise ValueError(
                f"declares {points.count:,} points; the limit is {max_points:,}: divide or downsample it; for "
                "training, data.grid_size thins binary PLY without lists on reading"
            )
        if order == "=":
            return _read_ascii(file, before, points, size)
        _skip_before(file, before, points, size)
        return (_read_binary_lists if points.num_lists else _read_binary)(file, points, size)


def declared_properties(path: Path) -> dict[str, tuple[str, np.dtype]]:
    """The numeric properties of the element `vertex` in the order of the file, as its header declares them.

    Returns:
        Name in lower case, as `read_vertices` has it, to the name in the file and the type in native byte order.

    Raises:
        OSError, ValueError: as `read_vertices`.
    """
    with path.open("rb") as file:
        points = next(element for element in _read_header(file)[1] if element.name == "vertex")
    found: dict[str, tuple[str, np.dtype]] = {}
    for p in points.numbers:
        found.setdefault(p.name, (p.written, p.dtype.newbyteorder("=")))
    return found


# Header


def _read_header(file: BinaryIO) -> tuple[_Order, list[_Element]]:
    """The byte order of the numbers ("=" for text) and the elements; the file is left at the first byte of data."""
    head = file.read(_MAX_HEADER_BYTES)
    start = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head)
    if start is None:
        raise ValueError("is not a PLY file: it does not begin with the line ply")
    newline = start[1][-1:]  # "\r" alone: Rhino
    end = re.search(newline + rb"end_header[ \t\r]*?" + newline, head)
    if end is None:
        raise ValueError(f"its header is truncated, invalid, or longer than {_MAX_HEADER_BYTES:,} bytes")
    file.seek(end.end())
    order: _Order | None = None
    elements: list[_Element] = []
    for line in head[start.end() : end.start()].split(newline):
        match line.decode("latin1").split():
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, _] if name in _ORDERS and not order:
                order = _ORDERS[name]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 20 and order:
                elements.append(_Element(name.lower(), int(count), []))
            case ["property", "list", length, kind, *name] if {length, kind} <= set(_TYPES) and name and elements:
                if _TYPES[length].startswith("f"):
                    raise ValueError("its header has a list whose length is not an integer")
                assert order
                elements[-1].properties.append(_Property(_joined(name), _dtype(kind, order), _dtype(length, order)))
            case ["property", kind, *name] if kind in _TYPES and name and elements:
                assert order
                elements[-1].properties.append(_Property(_joined(name), _dtype(kind, order), None))
            case _:
                invalid = printable(line[:60].decode("latin1").strip())
                raise ValueError(f"its header has an invalid line: {invalid}")
    if order is None:
        raise ValueError("its header does not name a format")
    return order, elements


def _read_until_vertices(file: BinaryIO) -> tuple[_Order, list[_Element], _Element]:
    """The byte order, the elements before the points, and the points; the file is left as by `_read_header`."""
    order, elements = _read_header(file)
    before = list(takewhile(lambda element: element.name != "vertex", elements))
    if len(before) == len(elements):
        raise ValueError("has no points: its header declares no element vertex")
    points = elements[len(before)]
    if not points.numbers:
        raise ValueError("has no numeric properties for its points")
    return order, before, points


def _joined(words: list[str]) -> str:
    """The name of a property, which some programs write with spaces."""
    return " ".join(words)


def _dtype(kind: str, order: _Order) -> np.dtype:
    return np.dtype(_TYPES[kind]).newbyteorder(order)


def _named(element: _Element, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The columns by name; of two with the same name, the first counts."""
    pairs = zip(element.numbers, columns, strict=True)
    return {p.name: column for p, column in reversed(list(pairs))}


# Binary files


def _skip_before(file: BinaryIO, before: list[_Element], points: _Element, size: int) -> None:
    """Go on to the first byte of the points."""
    if sum(element.count * element.num_lists for element in (*before, points)) > _MAX_LISTS:
        raise ValueError(f"has more than {_MAX_LISTS:,} lists in or before its points; save it without them")
    for element in before:
        _skip_binary(file, element, size)


def _check_left(file: BinaryIO, element: _Element, size: int) -> int:
    """The bytes that the rows of an element without lists need, which are there."""
    needed = element.count * element.min_row_size
    left = size - file.tell()
    if needed > left:
        raise ValueError(f"is truncated: {element.count:,} points need {needed:,} bytes, but only {left:,} are left")
    return needed


def _read_binary(file: BinaryIO, element: _Element, size: int) -> dict[str, np.ndarray]:
    needed = _check_left(file, element, size)
    row = np.dtype([(f"f{i}", p.dtype) for i, p in enumerate(element.properties)])
    points = np.frombuffer(file.read(needed), row)
    if len(points) != element.count:  # the file shrank in the meantime
        raise ValueError("is truncated")
    return _native(element, [points[f"f{i}"] for i in range(len(element.properties))])


def _read_binary_lists(file: BinaryIO, element: _Element, size: int) -> dict[str, np.ndarray]:
    runs: list[list[tuple[str, np.dtype]]] = [[]]  # the numbers between two lists, which are read together
    for p in element.properties:
        if p.length is None:
            runs[-1].append((f"f{len(runs[-1])}", p.dtype))
        else:
            runs.append([])
    dtypes = [np.dtype(run) for run in runs]
    found = [[np.empty((0, dtype.itemsize), np.uint8)] for dtype in dtypes]
    data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    for rows in _rows_with_lists(data, file.tell(), element):
        for blocks, offsets, dtype in zip(found, rows.T, dtypes, strict=False):
            blocks.append(sliding_window_view(np.frombuffer(data, np.uint8), dtype.itemsize)[offsets])
    columns = []
    for blocks, dtype in zip(found, dtypes, strict=True):
        if dtype.names:
            table = np.concatenate(blocks).view(dtype)[:, 0]
            columns += [table[name] for name in dtype.names]
    return _native(element, columns)


def _skip_binary(file: BinaryIO, element: _Element, size: int) -> None:
    end = file.tell()
    if element.num_lists:
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            for rows in _rows_with_lists(data, end, element):
                end = int(rows[-1, -1])
    else:
        end = min(end + element.count * element.min_row_size, size)
    file.seek(end)


def _rows_with_lists(data: mmap.mmap, offset: int, element: _Element) -> Iterator[np.ndarray]:
    """Walk through the rows of an element with L lists from an offset on, in blocks.

    Yields:
        Offsets `(rows, L + 2)` int64: of the first number of each row, of the end of each list, and of the next row.
    """
    lists: list[tuple[int, int, Literal["big", "little"], bool, int]] = []
    after = 0  # bytes since the last list
    for p in element.properties:
        if p.length is None:
            after += p.dtype.itemsize
        else:
            order: Literal["big", "little"] = "big" if p.length.byteorder == ">" else "little"
            lists.append((after, p.length.itemsize, order, p.length.kind == "i", p.dtype.itemsize))
            after = 0
    size = len(data)
    truncated = ValueError(f"is truncated in its {element}")
    if element.count * element.min_row_size > size - offset:
        raise truncated
    for first in range(0, element.count, _BLOCK):
        num_rows = min(_BLOCK, element.count - first)
        offsets = array("q")
        for _ in range(num_rows):
            offsets.append(offset)
            for before, width, order, signed, item in lists:
                offset += before + width
                length = int.from_bytes(data[offset - width : offset], order, signed=signed)
                if length < 0:
                    raise ValueError(f"has a list of negative length in its {element}")
                offset += length * item
                if offset > size:
                    raise truncated
                offsets.append(offset)
            offset += after
            offsets.append(offset)
        if offset > size:
            raise truncated
        yield np.frombuffer(offsets, np.int64).reshape(num_rows, -1)


def _native(element: _Element, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    return _named(element, [column.astype(column.dtype.newbyteorder("=")) for column in columns])


# ASCII files


class _LineError(ValueError):
    """The lines of an ASCII file are too long, or nearly all blank."""


def _read_ascii(file: BinaryIO, before: list[_Element], element: _Element, size: int) -> dict[str, np.ndarray]:
    width = len(element.properties)
    if element.count * 2 * width > size - file.tell() + 1:  # each value takes a digit and a separator
        raise ValueError(f"is truncated: it is too small for the {element.count:,} points that its header declares")
    if sum(other.count for other in before if other.properties) > _MAX_SKIPPED_LINES:
        raise ValueError(f"has more than {_MAX_SKIPPED_LINES:,} lines before its points; put element vertex first")
    lines = _lines(file)
    for other in before:
        if other.properties and sum(1 for _ in islice(lines, other.count)) < other.count:
            raise ValueError(f"is truncated in its {other}")
    if element.num_lists:
        first = next(lines, "")
        lines = chain([first], lines)
        # Blender 2.7 declares the list of a mesh without faces for its points, and writes no values for it.
        if len(first.split()) == len(element.numbers):
            element = replace(element, properties=element.numbers)
    columns = (_parse_lists if element.num_lists else _parse_numbers)(lines, element)
    return _named(element, [_as_declared(column, p.dtype) for column, p in zip(columns, element.numbers, strict=True)])


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines that are not blank, with any line ending."""
    blank = 0
    text = io.TextIOWrapper(file, "latin1", newline=None)
    while line := text.readline(_MAX_DATA_LINE):
        if not line.isspace():
            blank -= 1  # a file may be double-spaced
            if "#" in line or "(" in line:
                line = _NOT_A_NUMBER.sub("nan", line)
            yield line
            if len(line) == _MAX_DATA_LINE:  # a hole in a sparse file is one endless line
                raise _LineError("has a line that is too long")
        elif (blank := blank + 1) > _MAX_BLANK_LINES:
            raise _LineError(f"has {_MAX_BLANK_LINES:,} more blank lines than others")


def _parse_numbers(lines: Iterator[str], element: _Element) -> list[np.ndarray]:
    width = len(element.properties)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is reported below
            rows = np.loadtxt(lines, np.float64, comments=None, max_rows=element.count, ndmin=2, encoding="latin1")
    except _LineError:
        raise
    except ValueError as error:
        raise _invalid_line(error, f"{width} numbers") from error
    if len(rows) < element.count:
        raise _missing_lines(element, len(rows))
    if not element.count:
        rows = rows.reshape(0, width)
    if rows.shape[1] != width:
        raise ValueError(f"has {rows.shape[1]} numbers in a line; its header declares {width} properties")
    return list(rows.T)


def _parse_lists(lines: Iterator[str], element: _Element) -> list[np.ndarray]:
    """The numbers of each line that are not in a list."""
    numbers = array("d")
    for line in islice(lines, element.count):
        values, place = line.split(), 0
        try:
            for p in element.properties:
                if p.length is None:
                    numbers.append(float(values[place]))
                elif (length := int(values[place])) >= 0:
                    place += length
                else:
                    raise ValueError(f"length {length}")
                place += 1
            if place != len(values):
                raise ValueError(f"{len(values)} numbers instead of {place}")
        except (IndexError, ValueError) as error:
            raise _invalid_line(error, "the numbers and lists that its header declares") from error
    table = np.frombuffer(numbers, np.float64) if numbers else np.empty(0)
    rows = table.reshape(-1, len(element.numbers))
    if len(rows) < element.count:
        raise _missing_lines(element, len(rows))
    return list(rows.T)


def _invalid_line(error: Exception, expected: str) -> ValueError:
    return ValueError(f"has a line that does not contain {expected} ({printable(str(error).split(';')[0][:200])})")


def _missing_lines(element: _Element, found: int) -> ValueError:
    return ValueError(f"is truncated: it has {found:,} of the {element.count:,} points that its header declares")


def _as_declared(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values  # float64 keeps all digits, whatever was declared
    limits = np.iinfo(dtype)
    # Not <= limits.max, which a float64 rounds up if the type has 64 bits.
    fits = len(values) == 0 or (values.min() >= limits.min and values.max() < float(limits.max + 1))
    return values.astype(dtype) if fits and np.array_equal(values, np.rint(values)) else values
