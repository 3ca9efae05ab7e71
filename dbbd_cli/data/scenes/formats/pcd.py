"""Read PCD files of the Point Cloud Library: ASCII, binary, and binary_compressed.

This reader is our own, with a decoder of LZF: the libraries for PCD and for LZF have no wheels, or allocate what a
header declares. Points with NaN as a coordinate, which PCL writes where a sensor saw nothing, are left out.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.formats.blocks import BLOCK_POINTS, by_rows, check_size_of_whole, slices, too_many_points
from dbbd_cli.data.scenes.formats.names import column_arrays
from dbbd_cli.data.scenes.formats.text import number_rows
from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays

_MAX_HEADER_BYTES = 1 << 16
_MAX_FIELDS = 256
_MAX_ROW_BYTES = 4096
_MAX_UNPACKED = 1 << 31
_MAX_RATIO = 100
"""LZF packs at most 264 bytes in 3."""
_PACKED_COLORS = ("rgb", "rgba")
_KINDS = {"I": "i", "U": "u", "F": "f"}


@dataclass(frozen=True)
class _Field:
    """A field of each point: `count` numbers of one type."""

    name: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        """Bytes in each point."""
        return self.dtype.itemsize * self.count


@dataclass(frozen=True)
class _Header:
    fields: tuple[_Field, ...]
    num_points: int
    data: str


def read_pcd(path: Path) -> SceneArrays:
    """Read a scene from a `.pcd` file; see `reader` for what a reader returns and raises."""
    with path.open("rb") as file:
        check_size_of_whole(os.fstat(file.fileno()).st_size)
        header = _read_header(file)
        if header.num_points > MAX_POINTS:
            raise too_many_points(f"{header.num_points:,}")
        read = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}[header.data]
        return _scene_arrays(read(file, header, _bytes_left(file)))


def pcd_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read the points of a file block by block; of text, and if they are compressed, all at once.

    Raises:
        OSError, ValueError: as `read_pcd`.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        if header.data == "binary":
            _check_left(header, _bytes_left(file))
            for start in range(0, header.num_points, BLOCK_POINTS):
                block = replace(header, num_points=min(BLOCK_POINTS, header.num_points - start))
                yield _scene_arrays(_read_binary(file, block, _bytes_left(file)))
            return
    yield from slices(read_pcd(path))


def _bytes_left(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def _scene_arrays(columns: dict[str, np.ndarray]) -> SceneArrays:
    for name in _PACKED_COLORS:
        if name in columns and columns[name].dtype.itemsize == 4:
            bits = columns.pop(name).view(np.uint32)
            for channel, shift in (("red", 16), ("green", 8), ("blue", 0)):
                columns.setdefault(channel, ((bits >> shift) & 255).astype(np.uint8))
    arrays = column_arrays(columns)
    missing = np.isnan(arrays.coord).any(axis=1)
    return by_rows(lambda parts: parts[0][~missing], arrays) if missing.any() else arrays


def _read_header(file: BinaryIO) -> _Header:
    """The header; the file is left at the first byte of data."""
    head = file.read(_MAX_HEADER_BYTES)
    end = re.search(rb"(?m)^DATA[ \t]+(ascii|binary_compressed|binary)[ \t]*\r?\n", head)
    if end is None:
        what = "its header is truncated, invalid or too long" if b"FIELDS" in head else "is not a PCD file"
        raise ValueError(f"{what}: it has no line DATA ascii, binary or binary_compressed")
    file.seek(end.end())
    lines: dict[str, list[str]] = {}
    for line in head[: end.start()].decode("latin1").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            key, *values = line.split()
            lines.setdefault("FIELDS" if key == "COLUMNS" else key, values)
    names = lines.get("FIELDS", [])
    if not 0 < len(names) <= _MAX_FIELDS:
        raise ValueError(f"its header declares {len(names)} fields; expected 1 to {_MAX_FIELDS}")
    counts = _numbers(lines, "COUNT", len(names), ["1"] * len(names))
    sizes = _numbers(lines, "SIZE", len(names), None)
    types = lines.get("TYPE", [])
    if len(types) != len(names):
        raise ValueError(f"its header has {len(types)} types for {len(names)} fields")
    fields = []
    for name, size, kind, count in zip(names, sizes, types, counts, strict=True):
        if kind not in _KINDS or size not in ((4, 8) if kind == "F" else (1, 2, 4, 8)):
            raise ValueError(f"its header declares an unknown type {printable(kind[:10])} of {size} bytes")
        fields.append(_Field(name.lower(), np.dtype(f"<{_KINDS[kind]}{size}"), count))
    if sum(field.num_bytes for field in fields) > _MAX_ROW_BYTES:
        raise ValueError(f"its header declares more than {_MAX_ROW_BYTES:,} bytes for each point")
    if not any(field.num_bytes for field in fields):
        raise ValueError("its header declares points without numbers")
    if "POINTS" in lines:
        [num_points] = _numbers(lines, "POINTS", 1, None)
    else:
        num_points = _numbers(lines, "WIDTH", 1, None)[0] * _numbers(lines, "HEIGHT", 1, ["1"])[0]
    return _Header(tuple(fields), num_points, end[1].decode())


def _numbers(lines: dict[str, list[str]], key: str, count: int, default: list[str] | None) -> list[int]:
    values = lines.get(key, default)
    if values is None or len(values) != count or not all(v.isascii() and v.isdigit() and len(v) < 12 for v in values):
        raise ValueError(f"its header has no valid line {key} with {count} whole numbers")
    return [int(value) for value in values]


def _truncated(header: _Header, needed: int, left: int) -> ValueError:
    return ValueError(f"is truncated: {header.num_points:,} points need {needed:,} bytes, but only {left:,} are left")


def _read_ascii(file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    width = sum(field.count for field in header.fields)
    if header.num_points * 2 * width > left + 1:  # each number takes a digit and a separator
        raise _truncated(header, header.num_points * 2 * width, left)
    blocks, count = [], 0
    for rows in number_rows(file, width):
        blocks.append(rows[: header.num_points - count])
        count += len(rows)
        if count >= header.num_points:
            break
    if count < header.num_points:
        raise ValueError(f"is truncated: it has {count:,} of the {header.num_points:,} points that its header declares")
    table = np.concatenate(blocks) if blocks else np.empty((0, width))
    columns, place = {}, 0
    for field in header.fields:
        values = table[:, place]
        place += field.count
        if field.count != 1 or field.name in columns:
            continue
        if field.name in _PACKED_COLORS:  # the bits of a float, or an integer
            with np.errstate(over="ignore", invalid="ignore"):
                values = values.astype(field.dtype) if field.dtype.kind == "f" else values.astype(np.int64)
            columns[field.name] = values if field.dtype.kind == "f" else values.astype(np.uint32)
        else:
            columns[field.name] = values
    return columns


def _check_left(header: _Header, left: int) -> int:
    """The bytes that the points of a binary file need, which are there."""
    needed = header.num_points * sum(field.num_bytes for field in header.fields)
    if needed > left:
        raise _truncated(header, needed, left)
    return needed


def _read_binary(file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    row = np.dtype([(f"f{i}", field.dtype, (field.count,)) for i, field in enumerate(header.fields)])
    needed = _check_left(header, left)
    points = np.frombuffer(file.read(needed), row)
    if len(points) != header.num_points:  # the file shrank in the meantime
        raise ValueError("is truncated")
    return _native(header, [points[f"f{i}"] for i in range(len(header.fields))])


def _read_compressed(file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    if left < 8:
        raise ValueError("is truncated before its points")
    packed, unpacked = struct.unpack("<II", file.read(8))
    needed = header.num_points * sum(field.num_bytes for field in header.fields)
    if packed > left - 8:
        raise _truncated(header, packed, left - 8)
    if unpacked != needed or needed > _MAX_UNPACKED or needed > _MAX_RATIO * packed:
        raise ValueError(f"is damaged: {header.num_points:,} points need {needed:,} bytes, not {unpacked:,}")
    data = _unpacked(file.read(packed), needed)
    columns, start = [], 0
    for field in header.fields:  # field after field, not point after point
        values = np.frombuffer(data, field.dtype, header.num_points * field.count, start)
        columns.append(values.reshape(header.num_points, field.count))
        start += values.nbytes
    return _native(header, columns)


def _native(header: _Header, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The fields of single numbers by name; of two with the same name, the first counts."""
    named: dict[str, np.ndarray] = {}
    for field, column in zip(header.fields, columns, strict=True):
        if field.count == 1 and field.name not in named:
            named[field.name] = column[:, 0].astype(field.dtype.newbyteorder("="))
    return named


def _unpacked(data: bytes, size: int) -> bytes:
    """Decode LZF to `size` bytes.

    A byte below 32 is followed by that many bytes and one more, as they are. Any other byte holds a length in its
    upper three bits and, with the byte at the end, a distance back to bytes that are repeated.

    Raises:
        ValueError: the data is damaged.
    """
    out = bytearray()
    place, end = 0, len(data)
    try:
        while place < end:
            control = data[place]
            place += 1
            if control < 32:
                out += data[place : place + control + 1]
                place += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[place]
                place += 1
            length += 2
            back = ((control & 31) << 8) + data[place] + 1
            place += 1
            if back > len(out) or len(out) > size:
                raise ValueError("its compressed points are damaged")
            start = len(out) - back
            piece = out[start : start + length]
            out += piece if back >= length else (piece * (length // back + 1))[:length]
    except IndexError as error:
        raise ValueError("its compressed points are truncated") from error
    if len(out) != size:
        raise ValueError(f"its compressed points have {len(out):,} bytes, not {size:,}")
    return bytes(out)
