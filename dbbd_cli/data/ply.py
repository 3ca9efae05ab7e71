"""Reading the points of a PLY file, ASCII or binary, whatever properties it has.

Every size that the header promises is checked against the file before anything is allocated.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from dbbd_cli.text import printable

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_Order = Literal["=", "<", ">"]
_ORDERS: dict[str, _Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_LINES = 1000
_MAX_LINE = 4096
_MAX_DATA_LINE = 1 << 20
_MAX_BLANK = 10_000
_MAX_SKIPPED = 1_000_000
"""What is skipped before the points is looked at one by one, in a second or so for so many."""


@dataclass(frozen=True)
class _Property:
    name: str
    dtype: np.dtype
    count_dtype: np.dtype | None
    """Of a list: the type of its length."""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]

    @property
    def has_lists(self) -> bool:
        return any(p.count_dtype is not None for p in self.properties)

    @property
    def itemsize(self) -> int:
        return sum(p.dtype.itemsize for p in self.properties)


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
        order, elements = _read_header(file)
        _check_order(order, elements)
        for element in elements:
            if element.name == "vertex":
                if element.count > max_points:
                    raise ValueError(f"promises {element.count:,} points; at most {max_points:,} are read")
                if not element.properties or element.has_lists:
                    raise ValueError("has lists, or nothing at all, as properties of its points")
                read = _read_ascii if order == "=" else _read_binary
                return read(file, element, size)
            skip = _skip_lines if order == "=" else _skip_binary
            skip(file, element, size, order)
    raise ValueError("has no points: its header names no element vertex")


def _read_header(file: BinaryIO) -> tuple[_Order, list[_Element]]:
    if file.readline(_MAX_LINE).rstrip() != b"ply":
        raise ValueError("is no PLY file: it does not begin with the line ply")
    order: _Order | None = None
    elements: list[_Element] = []
    for _ in range(_MAX_HEADER_LINES):
        line = file.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("its header is truncated, or no header of a PLY")
        match line.decode("latin1").split():
            case ["end_header"]:
                if not order:
                    raise ValueError("its header names no format")
                return order, elements
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, _] if name in _ORDERS and not order:
                order = _ORDERS[name]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 20 and order:
                elements.append(_Element(name, int(count), []))
            case ["property", kind, name] if kind in _TYPES and elements and order:
                elements[-1].properties.append(_Property(name.lower(), _dtype(kind, order), None))
            case ["property", "list", length, kind, name] if {length, kind} <= set(_TYPES) and elements and order:
                if _TYPES[length].startswith("f"):
                    raise ValueError("its header has a list whose length is no whole number")
                elements[-1].properties.append(_Property(name.lower(), _dtype(kind, order), _dtype(length, order)))
            case _:
                odd = printable(line[:60].decode("latin1").strip())
                raise ValueError(f"its header has a line that is not understood: {odd}")
    raise ValueError(f"its header has more than {_MAX_HEADER_LINES} lines")


def _check_order(order: _Order, elements: list[_Element]) -> None:
    before = takewhile(lambda element: element.name != "vertex", elements)
    one_by_one = sum(e.count * len(e.properties) for e in before if order == "=" or e.has_lists)
    if one_by_one > _MAX_SKIPPED:
        raise ValueError(
            f"has more than {_MAX_SKIPPED:,} other values or lists before its points; put the element vertex first"
        )


def _dtype(kind: str, order: _Order) -> np.dtype:
    return np.dtype(_TYPES[kind]).newbyteorder(order)


def _named(element: _Element, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    # Where a name occurs twice, the first counts.
    pairs = zip(element.properties, columns, strict=True)
    return {p.name: column for p, column in reversed(list(pairs))}


def _read_binary(file: BinaryIO, element: _Element, size: int) -> dict[str, np.ndarray]:
    needed = element.count * element.itemsize
    left = size - file.tell()
    if needed > left:
        raise ValueError(f"is truncated: {element.count:,} points need {needed:,} bytes, and it has {left:,}")
    row = np.dtype([(f"f{i}", p.dtype) for i, p in enumerate(element.properties)])
    points = np.frombuffer(file.read(needed), row)
    if len(points) != element.count:  # it shrank since its size was taken
        raise ValueError("is truncated")
    columns = [points[f"f{i}"] for i in range(len(element.properties))]
    return _named(element, [column.astype(column.dtype.newbyteorder("=")) for column in columns])


def _read_ascii(file: BinaryIO, element: _Element, size: int) -> dict[str, np.ndarray]:
    width = len(element.properties)
    if element.count * 2 * width > size - file.tell() + 1:  # each value takes a digit and a separator
        raise ValueError(f"is truncated: it is too small for the {element.count:,} points that it promises")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty table is answered below
            lines = _lines(file)
            rows = np.loadtxt(lines, np.float64, comments=None, max_rows=element.count, ndmin=2, encoding="latin1")
    except _LineError:
        raise
    except ValueError as error:
        raise ValueError(
            f"has a line that does not hold {width} numbers ({printable(str(error).split(';')[0][:200])})"
        ) from error
    if len(rows) < element.count:
        raise ValueError(f"is truncated: it has {len(rows):,} of the {element.count:,} points that it promises")
    if not element.count:
        rows = rows.reshape(0, width)
    if rows.shape[1] != width:
        raise ValueError(f"has {rows.shape[1]} numbers in a line; its header names {width} properties")
    return _named(element, [_as_declared(rows[:, i], p.dtype) for i, p in enumerate(element.properties)])


def _as_declared(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values  # float64 keeps the digits that are there, whatever was declared
    limits = np.iinfo(dtype)
    fits = len(values) == 0 or (values.min() >= limits.min and values.max() <= limits.max)
    return values.astype(dtype) if fits and np.array_equal(values, np.rint(values)) else values


def _skip_lines(file: BinaryIO, element: _Element, size: int, order: str) -> None:
    if element.properties and sum(1 for _ in islice(_lines(file), element.count)) < element.count:
        raise ValueError(f"is truncated within its element {_shown(element)}")


class _LineError(ValueError):
    """A file in ASCII is not made of lines as one would write them."""


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are not blank."""
    blank = 0
    while line := file.readline(_MAX_DATA_LINE):
        if not line.isspace():
            blank -= 1  # a file may be double-spaced
            yield line
            if len(line) == _MAX_DATA_LINE:  # a hole in the file is a line without end
                raise _LineError("has a line that is too long")
        elif (blank := blank + 1) > _MAX_BLANK:
            raise _LineError(f"has {_MAX_BLANK:,} more blank lines than others")


def _skip_binary(file: BinaryIO, element: _Element, size: int, order: str) -> None:
    if not element.has_lists:
        file.seek(min(file.tell() + element.count * element.itemsize, size))
        return
    lengths = [
        (p.dtype.itemsize, p.count_dtype and struct.Struct(order + p.count_dtype.char)) for p in element.properties
    ]
    try:
        for _ in range(element.count):
            for width, length in lengths:
                count = 1 if length is None else length.unpack(file.read(length.size))[0]
                if count < 0:
                    raise ValueError(f"has a list of negative length in its element {_shown(element)}")
                file.seek(count * width, os.SEEK_CUR)
            if file.tell() > size:
                break
    except (struct.error, OverflowError, OSError):  # the end of the file, or a place that no file could have
        file.seek(size + 1)
    if file.tell() > size:
        raise ValueError(f"is truncated within its element {_shown(element)}")


def _shown(element: _Element) -> str:
    return printable(element.name[:60])
