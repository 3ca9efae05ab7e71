"""Checksums at the end of a large file of pixels, to find damage before the pixels are used.

The content is followed by the CRC-32 of each block, the time of writing, and a CRC-32 of these and of the file name,
which reveals a file of the same size under another name. Verification reads the whole file once, in several threads, at
the speed of the disk, or at a few gigabytes per second from memory.
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

BLOCK_BYTES = 4 << 20
_MAX_THREADS = 8
_MAGIC = b"dbbdcrc1"
_END = struct.Struct("<QI8s")
"""Time of writing in nanoseconds since 1970; CRC-32 of name, block checksums and this time; `_MAGIC`."""


def append_checksums(path: Path, name: str | None = None, written: int | None = None) -> None:
    """Append checksums to a file.

    Args:
        path: the file.
        name: name under which the file will be read; its current name by default.
        written: time of writing in nanoseconds since 1970; now by default.
    """
    size = path.stat().st_size
    checksums = np.array(list(_checksums(path, size)), "<u4").tobytes()
    written = time.time_ns() if written is None else written
    with path.open("ab") as file:
        file.write(checksums + _END.pack(written, _checksum_of(name or path.name, checksums, written), _MAGIC))


def size_with_checksums(size: int) -> int:
    """Return the size in bytes of a file with `size` bytes of content and its checksums."""
    return size + 4 * -(-size // BLOCK_BYTES) + _END.size


def written_ns(path: Path, size: int) -> int | None:
    """Return when a file with `size` bytes of content was written, in nanoseconds since 1970; None if damaged."""
    found = _stored(path, size)
    return found and found[1]


def checksums_match(path: Path, size: int) -> bool:
    """Return whether the content, `size` bytes, matches its checksums.

    Raises:
        OSError: the file cannot be read.
    """
    found = _stored(path, size)
    # One by one, to stop at the first damaged block.
    return found is not None and all(
        int(stored) == actual for stored, actual in zip(found[0], _checksums(path, size), strict=True)
    )


def _stored(path: Path, size: int) -> tuple[np.ndarray, int] | None:
    """Return the stored checksums and time of writing, or None if they are damaged."""
    if path.stat().st_size != size_with_checksums(size):
        return None
    with path.open("rb") as file:
        file.seek(size)
        rest = file.read()
    checksums, end = rest[: -_END.size], rest[-_END.size :]
    written, checksum, magic = _END.unpack(end)
    if magic != _MAGIC or checksum != _checksum_of(path.name, checksums, written):
        return None
    return np.frombuffer(checksums, "<u4"), written


def _checksum_of(name: str, checksums: bytes, written: int) -> int:
    return zlib.crc32(written.to_bytes(8, "little"), zlib.crc32(checksums, zlib.crc32(os.fsencode(name))))


def _checksums(path: Path, size: int) -> Iterator[int]:
    """Yield the CRC-32 of each block of the first `size` bytes."""

    def checksum(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(min(BLOCK_BYTES, size - start)))

    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    starts = range(0, size, BLOCK_BYTES)
    with ThreadPoolExecutor(threads) as pool:
        # A few at a time: blocks after a damaged one are not read.
        for first in range(0, len(starts), 4 * threads):
            yield from pool.map(checksum, starts[first : first + 4 * threads])
