"""Checksums at the end of a large file of rows, to find damage in a row when it is read.

The content is followed by the CRC-32 of each row, the time of writing, and a CRC-32 of these and of the file name,
which reveals a file of the same size under another name. Opening a file reads only its end; a row is verified each time
that it is read, which costs a few microseconds. Rows are read, not mapped into memory: pages of a mapped file would
count as memory of every process that has touched them, and a truncated file or a failing disk would kill the process.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_BLOCK_BYTES = 4 << 20
_MAX_THREADS = 8
_MAGIC = b"dbbdcrc2"
_END = struct.Struct("<QI8s")
"""Time of writing in nanoseconds since 1970; CRC-32 of name, row checksums and this time; `_MAGIC`."""


def append_checksums(path: Path, row_bytes: int, name: str | None = None, written: int | None = None) -> None:
    """Append checksums to a file.

    Args:
        path: the file.
        row_bytes: size of a row; that of the file is a multiple.
        name: name under which the file will be read; its current name by default.
        written: time of writing in nanoseconds since 1970; now by default.
    """
    checksums = np.array(list(_checksums(path, path.stat().st_size, row_bytes)), "<u4").tobytes()
    written = time.time_ns() if written is None else written
    with path.open("ab") as file:
        file.write(checksums + _END.pack(written, _checksum_of(name or path.name, checksums, written), _MAGIC))


def size_with_checksums(rows: int, row_bytes: int) -> int:
    """Return the size in bytes of a file of rows and their checksums."""
    return rows * (row_bytes + 4) + _END.size


def written_ns(path: Path, rows: int, row_bytes: int) -> int | None:
    """Return when a file of rows was written, in nanoseconds since 1970; None if its size or its end is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        found = _stored(file.fileno(), path.name, rows, row_bytes)
    return found and found[1]


class CheckedRows:
    """The rows of a file, which stays open: they can be read even after it has been removed.

    Args:
        path: the file.
        rows: number of rows.
        row_bytes: size of a row.

    Raises:
        OSError: the file cannot be read, or its size or its end is damaged.
    """

    def __init__(self, path: Path, rows: int, row_bytes: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._row_bytes = row_bytes
        found = _stored(self._file.fileno(), path.name, rows, row_bytes)
        if found is None:
            raise OSError(f"{path} is damaged")
        self._checksums = found[0]

    def read(self, row: int, into: np.ndarray) -> bool:
        """Read a row into a contiguous array, `row_bytes` uint8; return whether it was undamaged."""
        try:
            size = _read_at(self._file.fileno(), row * self._row_bytes, memoryview(into.data).cast("B"))
        except OSError:  # the disk is failing
            return False
        return size == self._row_bytes and zlib.crc32(into.data) == int(self._checksums[row])


def _read_at(file: int, position: int, into: memoryview) -> int:
    """Fill a buffer from a position of a file; return the number of bytes read."""
    if hasattr(os, "preadv"):  # processes that were forked share the position of an open file
        return os.preadv(file, [into], position)
    os.lseek(file, position, os.SEEK_SET)
    data = os.read(file, len(into))
    into[: len(data)] = data
    return len(data)


def _stored(file: int, name: str, rows: int, row_bytes: int) -> tuple[np.ndarray, int] | None:
    """Return the stored checksums and time of writing, or None if they are damaged."""
    if os.fstat(file).st_size != size_with_checksums(rows, row_bytes):
        return None
    rest = bytearray(4 * rows + _END.size)
    if _read_at(file, rows * row_bytes, memoryview(rest)) != len(rest):
        return None
    checksums, end = bytes(rest[: -_END.size]), rest[-_END.size :]
    written, checksum, magic = _END.unpack(end)
    if magic != _MAGIC or checksum != _checksum_of(name, checksums, written):
        return None
    return np.frombuffer(checksums, "<u4"), written


def _checksum_of(name: str, checksums: bytes, written: int) -> int:
    return zlib.crc32(written.to_bytes(8, "little"), zlib.crc32(checksums, zlib.crc32(os.fsencode(name))))


def _checksums(path: Path, size: int, row_bytes: int) -> Iterator[int]:
    """Yield the CRC-32 of each row of the first `size` bytes."""
    block = max(1, _BLOCK_BYTES // row_bytes) * row_bytes

    def checksums(start: int) -> list[int]:
        with path.open("rb") as file:
            file.seek(start)
            data = memoryview(file.read(min(block, size - start)))
        return [zlib.crc32(data[first : first + row_bytes]) for first in range(0, len(data), row_bytes)]

    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(checksums, range(0, size, block)):
            yield from found
