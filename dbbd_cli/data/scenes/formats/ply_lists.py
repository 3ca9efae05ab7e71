"""Read rows of PLY data that contain lists, so that the length of a row depends on its content.

Consecutive rows whose lists have the same lengths are found together with NumPy; all others are read one by one.

Legend: F fields of a row that are not lists, L its lists, R rows of a chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_MAX_CHUNK = 1 << 16
"""Maximum rows at a time."""
_MIN_EQUAL = 64
"""Fewer equal rows than this are not worth searching for."""
MAX_STEPS = 50_000_000
"""Lists read one by one, in about ten seconds; a search for equal rows counts as `_MIN_EQUAL`."""
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
        length: type of the length that precedes a list; None if the field is not a list.
    """

    dtype: np.dtype
    length: np.dtype | None

    @property
    def min_size(self) -> int:
        """Bytes of the number, or of an empty list."""
        return (self.length or self.dtype).itemsize


def end_of_rows(data: np.ndarray, start: int, count: int, fields: Sequence[Field]) -> int:
    """The offset after `count` rows of the bytes `data` that begin at `start`.

    Raises:
        ListError: the rows do not end within the data, a length is negative, or too many lengths differ.
    """
    for rows in _chunks(data, start, count, fields):
        start = int(rows[-1, -1])
    return start


def read_rows(
    data: np.ndarray, start: int, count: int, fields: Sequence[Field], values: np.ndarray | None = None
) -> tuple[list[np.ndarray], int]:
    """Read the fields of rows that are not lists.

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
    runs: list[list[tuple[str, np.dtype]]] = [[]]  # the fields between two lists, which are read together
    for field in fields:
        if field.length is None:
            runs[-1].append((f"f{len(runs[-1])}", field.dtype))
        else:
            runs.append([])
    dtypes = [np.dtype(run) for run in runs]
    found: list[list[np.ndarray]] = [[np.empty((0, dtype.itemsize), np.uint8)] for dtype in dtypes]
    source = data if values is None else values
    for rows in _chunks(data, start, count, fields):
        for blocks, offsets, dtype in zip(found, rows.T, dtypes, strict=False):
            blocks.append(sliding_window_view(source, dtype.itemsize)[offsets])
        start = int(rows[-1, -1])
    columns = []
    for blocks, dtype, run in zip(found, dtypes, runs, strict=True):
        if run:
            table = np.concatenate(blocks).view(dtype)[:, 0]
            columns += [table[name] for name, _ in run]
    return columns, start


@dataclass(frozen=True)
class _List:
    """A list in a row."""

    before: int
    """Bytes from the end of the previous list, or the start of the row, to the length of this one."""
    length: np.dtype
    width: int
    """Bytes of an item."""


def _chunks(data: np.ndarray, start: int, count: int, fields: Sequence[Field]) -> Iterator[np.ndarray]:
    """Offsets of rows, `(R, L + 2)` int64: the start of each, the end of each of its lists, and its own end."""
    lists: list[_List] = []
    after = 0  # bytes since the last list
    for field in fields:
        if field.length is None:
            after += field.dtype.itemsize
        else:
            lists.append(_List(after, field.length, field.dtype.itemsize))
            after = 0
    if count * sum(field.min_size for field in fields) > len(data) - start:
        raise ListError(_TRUNCATED)
    steps = 0
    one_by_one = together = _MIN_EQUAL  # rows to read next, either way
    while count > 0:
        rows = _equal_rows(data, start, min(count, together), lists, after)
        steps += _MIN_EQUAL
        if len(rows) >= min(count, _MIN_EQUAL):
            one_by_one, together = _MIN_EQUAL, min(2 * len(rows), _MAX_CHUNK)
        else:
            rows = _rows(data, start, min(count, one_by_one), lists, after)
            steps += len(rows) * len(lists)
            one_by_one, together = min(2 * one_by_one, _MAX_CHUNK), _MIN_EQUAL
        if steps > MAX_STEPS:
            raise ListError(f"has more than {MAX_STEPS:,} lists of different lengths, too many to read")
        yield rows
        start = int(rows[-1, -1])
        count -= len(rows)


def _equal_rows(data: np.ndarray, start: int, limit: int, lists: Sequence[_List], after: int) -> np.ndarray:
    """The first rows, as long as their lists have the same lengths as those of the very first."""
    first = _rows(data, start, 1, lists, after)
    size = int(first[0, -1]) - start
    limit = min(limit, (len(data) - start) // size)
    table = data[start : start + limit * size].reshape(limit, size)
    equal = np.ones(limit, dtype=bool)
    for begin, entry in zip(first[0].tolist(), lists, strict=False):
        offset = begin - start + entry.before
        lengths = table[:, offset : offset + entry.length.itemsize]
        equal &= (lengths == lengths[0]).all(axis=1)
    found = limit if equal.all() else int(equal.argmin())
    return first + np.arange(found)[:, None] * size


def _rows(data: np.ndarray, start: int, count: int, lists: Sequence[_List], after: int) -> np.ndarray:
    """The first rows, read one by one."""
    buffer = data.data
    plan = [(entry.before, _unpacker(entry.length), entry.length.itemsize, entry.width) for entry in lists]
    lengths: list[int] = []
    offset = start
    try:
        for _ in range(count):
            for before, unpack, size, width in plan:
                offset += before
                (length,) = unpack(buffer, offset)
                lengths.append(length)
                offset += size + length * width
            offset += after
    except (struct.error, OverflowError) as error:  # past the end
        raise ListError(_NEGATIVE if min(lengths, default=0) < 0 else _TRUNCATED) from error
    if min(lengths, default=0) < 0:
        raise ListError(_NEGATIVE)
    if offset > len(data):
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
