"""Reads the header of a PLY file: its elements, with their properties and number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.formats.ply_lists import Field

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
    "i1": "i1", "u1": "u1", "i2": "i2", "u2": "u2", "i4": "i4", "u4": "u4", "f4": "f4", "f8": "f8",
}  # fmt: skip
Order = Literal["=", "<", ">"]
_ORDERS: dict[str, Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_LINES = 1000
"""Lines that are not comments."""
_MAX_HEADER_BYTES = 1 << 22
_COST_OF_A_LINE = 100
"""Bytes that a line counts for in addition to its own, because of the time that it takes."""
_PART = 1 << 12


@dataclass(frozen=True)
class Property(Field):
    """A property of an element, whose name is in lower case."""

    name: str


@dataclass(frozen=True)
class Element:
    """An element: `count` rows with the same properties."""

    name: str
    count: int
    properties: list[Property]

    @property
    def has_lists(self) -> bool:
        """Whether rows may differ in length."""
        return any(p.length is not None for p in self.properties)

    @property
    def least_size(self) -> int:
        """Bytes of a row whose lists are empty."""
        return sum(p.least_size for p in self.properties)

    @property
    def numbers(self) -> list[Property]:
        """The properties that are not lists."""
        return [p for p in self.properties if p.length is None]


def read_header(file: BinaryIO) -> tuple[Order, list[Element]]:
    """Reads the header; the file is left at the first byte after it.

    Returns:
        The byte order of the numbers, "=" for text, and the elements.

    Raises:
        ValueError: it is not a valid PLY header; the message says why.
    """
    start = file.read(5)
    newline = b"\r" if start[3:4] == b"\r" and start[4:] != b"\n" else b"\n"  # CR alone: Rhino
    file.seek(0)
    if _header_line(file, newline, _PART).rstrip() != b"ply":
        raise ValueError("is not a PLY file: it does not begin with the line ply")
    order: Order | None = None
    elements: list[Element] = []
    lines_left, bytes_left = _MAX_HEADER_LINES, _MAX_HEADER_BYTES
    while lines_left > 0 and bytes_left > 0:
        line = _header_line(file, newline, bytes_left)
        bytes_left -= len(line) + _COST_OF_A_LINE
        if not line.endswith(newline):
            raise ValueError("its header is truncated or invalid")
        match line.decode("latin1").split():
            case ["end_header"]:
                if not order:
                    raise ValueError("its header names no format")
                return order, elements
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, _] if name in _ORDERS and not order:
                order = _ORDERS[name]
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 20 and order:
                elements.append(Element(name.lower(), int(count), []))
            case ["property", "list", length, kind, *name] if {length, kind} <= set(_TYPES) and name and elements:
                if _TYPES[length].startswith("f"):
                    raise ValueError("its header has a list whose length is not a whole number")
                assert order
                elements[-1].properties.append(Property(_dtype(kind, order), _dtype(length, order), _joined(name)))
            case ["property", kind, *name] if kind in _TYPES and name and elements:
                assert order
                elements[-1].properties.append(Property(_dtype(kind, order), None, _joined(name)))
            case _:
                odd = printable(line[:60].decode("latin1").strip())
                raise ValueError(f"its header has a line that is not understood: {odd}")
        lines_left -= 1
    raise ValueError(f"its header has more than {_MAX_HEADER_LINES} lines, or too many comments")


def _header_line(file: BinaryIO, newline: bytes, most: int) -> bytes:
    """The next line with its ending, or its first `most` bytes."""
    if newline == b"\n":
        return file.readline(most)
    place, line = file.tell(), bytearray()
    while len(line) < most and (part := file.read(_PART)):
        before, end, _ = part.partition(newline)
        line += before + end
        if end:
            break
    file.seek(place + len(line))
    return bytes(line)


def _joined(words: list[str]) -> str:
    """The name of a property, which may contain spaces in the files of some programs."""
    return " ".join(words).lower()


def _dtype(kind: str, order: Order) -> np.dtype:
    return np.dtype(_TYPES[kind]).newbyteorder(order)
