"""Reads rows of bytes that contain lists, so that the length of each row depends on its content.

Rows whose lists are as long as those of the row before are found together, with NumPy; others one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# F: fields of a row that are not lists. L: its lists. R: rows of a piece.

_PIECE = 1 << 16
"""Most rows at a time."""
_FEW = 64
"""Fewer equal rows than this are not worth searching for."""
MOST_STEPS = 50_000_000
"""Lists that are read one by one, in about ten seconds; an attempt to find equal rows counts as `_FEW`."""
_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}
_NEGATIVE = "has a list of negative length"
_TRUNCATED = "is truncated"


class ListError(ValueError):
    """The rows cannot be read; the message completes "the file …"."""


@dataclass(frozen=True)
class Field:
    """A number in each row, or a list of numbers.

    Attributes:
        dtype: type of the number.
        length: type of the length that precedes a list; None if it is not a list.
    """

    dtype: np.dtype
    length: np.dtype | None

    @property
    def least_size(self) -> int:
        """Bytes of the number, or of an empty list."""
        return (self.length or self.dtype).itemsize


def end_of_rows(data: np.ndarray, start: int, count: int, fields: Sequence[Field]) -> int:
    """The offset after `count` rows of the bytes `data` that begin at `start`.

    Raises:
        ListError: the rows do not end within the data, a length is negative, or too many lengths differ.
    """
    for rows in _pieces(data, start, count, fields):
        start = int(rows[-1, -1])
    return start


def read_rows(
    data: np.ndarray, start: int, count: int, fields: Sequence[Field], values: np.ndarray | None = None
) -> tuple[list[np.ndarray], int]:
    """Reads the fields of rows that are not lists.

    Args:
        data: bytes, uint8, from which the lengths of the lists are read.
        start: offset of the first row.
        count: number of rows.
        fields: the fields of a row, in order.
        values: bytes at the same offsets, from which the fields are read instead of `data`.

    Returns:
        F arrays `(count,)`, and the offset after the last row.

    Raises:
        ListError: the rows do not end within the data, a length is negative, or too many lengths differ.
    """
    runs: list[list[tuple[str, np.dtype]]] = [[]]  # the fields between two lists, which can be read together
    for field in fields:
        if field.length is None:
            runs[-1].append((f"f{len(runs[-1])}", field.dtype))
        else:
            runs.append([])
    dtypes = [np.dtype(run) for run in runs]
    found: list[list[np.ndarray]] = [[np.empty((0, dtype.itemsize), np.uint8)] for dtype in dtypes]
    source = data if values is None else values
    for rows in _pieces(data, start, count, fields):
        for parts, places, dtype in zip(found, rows.T, dtypes, strict=False):
            parts.append(sliding_window_view(source, dtype.itemsize)[places])
        start = int(rows[-1, -1])
    columns = []
    for parts, dtype, run in zip(found, dtypes, runs, strict=True):
        table = np.concatenate(parts).view(dtype)[:, 0] if run else None
        columns += [table[name] for name, _ in run] if table is not None else []
    return columns, start


@dataclass(frozen=True)
class _List:
    """A list within a row."""

    before: int
    """Bytes from the end of the previous list, or the start of the row, to its length."""
    length: np.dtype
    width: int
    """Bytes of an entry."""


def _pieces(data: np.ndarray, start: int, count: int, fields: Sequence[Field]) -> Iterator[np.ndarray]:
    """Offsets of rows, `(R, L + 2)` int64: the start of each, the end of each of its lists, and its own end."""
    lists: list[_List] = []
    after = 0  # bytes since the last list
    for field in fields:
        if field.length is None:
            after += field.dtype.itemsize
        else:
            lists.append(_List(after, field.length, field.dtype.itemsize))
            after = 0
    if count * sum(field.least_size for field in fields) > len(data) - start:
        raise ListError(_TRUNCATED)
    steps = 0
    patience = ahead = _FEW  # rows to read one by one, or together, next
    while count > 0:
        rows = _equal_rows(data, start, min(count, ahead), lists, after)
        steps += _FEW
        if len(rows) >= min(count, _FEW):
            patience, ahead = _FEW, min(2 * len(rows), _PIECE)
        else:
            rows = _rows(data, start, min(count, patience), lists, after)
            steps += len(rows) * len(lists)
            patience, ahead = min(2 * patience, _PIECE), _FEW
        if steps > MOST_STEPS:
            raise ListError(f"has more than {MOST_STEPS:,} lists of different lengths, too many to read")
        yield rows
        start = int(rows[-1, -1])
        count -= len(rows)


def _equal_rows(data: np.ndarray, start: int, most: int, lists: Sequence[_List], after: int) -> np.ndarray:
    """The first rows, as long as their lists have the same lengths as those of the very first."""
    first = _rows(data, start, 1, lists, after)
    size = int(first[0, -1]) - start
    most = min(most, (len(data) - start) // size)
    table = data[start : start + most * size].reshape(most, size)
    equal = np.ones(most, dtype=bool)
    for begin, entry in zip(first[0].tolist(), lists, strict=False):
        place = begin - start + entry.before
        lengths = table[:, place : place + entry.length.itemsize]
        equal &= (lengths == lengths[0]).all(axis=1)
    found = most if equal.all() else int(equal.argmin())
    return first + np.arange(found)[:, None] * size


def _rows(data: np.ndarray, start: int, count: int, lists: Sequence[_List], after: int) -> np.ndarray:
    """The first rows, read one by one."""
    buffer = data.data
    plan = [(entry.before, _unpacker(entry.length), entry.length.itemsize, entry.width) for entry in lists]
    lengths: list[int] = []
    place = start
    try:
        for _ in range(count):
            for before, unpack, size, width in plan:
                place += before
                (length,) = unpack(buffer, place)
                lengths.append(length)
                place += size + length * width
            place += after
    except (struct.error, OverflowError) as error:  # beyond the end
        raise ListError(_NEGATIVE if min(lengths, default=0) < 0 else _TRUNCATED) from error
    if min(lengths, default=0) < 0:
        raise ListError(_NEGATIVE)
    if place > len(data):
        raise ListError(_TRUNCATED)
    sizes = np.empty((count, len(lists) + 1), dtype=np.int64)
    for i, entry in enumerate(lists):
        sizes[:, i] = np.array(lengths[i :: len(lists)]) * entry.width + (entry.before + entry.length.itemsize)
    sizes[:, -1] = after
    ends = start + sizes.cumsum().reshape(sizes.shape)
    return np.column_stack([np.concatenate([[start], ends[:-1, -1]]), ends])


def _unpacker(dtype: np.dtype) -> Callable[[memoryview, int], tuple[int, ...]]:
    order = "=" if dtype.isnative else ">" if dtype.byteorder == ">" else "<"
    return struct.Struct(order + _CODES[dtype.str[1:]]).unpack_from
