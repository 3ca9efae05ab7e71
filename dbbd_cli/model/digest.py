"""Files of tensors that contain their own SHA-256, so that any changed bit is detected wherever the file is copied.

`torch.save` writes a ZIP archive. The digest is the archive's comment, at the very end of the file, so other programs
read the file as usual. It covers everything before the two bytes that hold the length of the comment.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

_PREFIX = b"dbbd sha256 "
_LENGTH = len(_PREFIX) + 64
_LENGTH_BYTES = struct.pack("<H", _LENGTH)
_CHUNK = 1 << 22


def _do_nothing() -> None:
    pass


class _HashingFile:
    """Hashes all written data but the last two bytes, so that the digest does not need a second read."""

    def __init__(self, file: IO[bytes], on_chunk: Callable[[], None]) -> None:
        self.file = file
        self.on_chunk = on_chunk
        self.hasher = hashlib.sha256()
        self.held_back = b""
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _CHUNK):  # torch writes a tensor of any size in one call
                self.on_chunk()
                self._write_chunk(view[start : start + _CHUNK])
        except BaseException as error:  # also an interrupt: torch replaces any error by its own
            self.error = error
            raise
        return len(view)

    def _write_chunk(self, chunk: memoryview) -> None:
        if len(chunk) >= 2:
            self.hasher.update(self.held_back)
            self.hasher.update(chunk[:-2])
            self.held_back = bytes(chunk[-2:])
        else:
            both = self.held_back + bytes(chunk)
            self.hasher.update(both[:-2])
            self.held_back = both[-2:]
        self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()


def save_with_digest(content: Mapping[str, Any], path: Path, on_chunk: Callable[[], None] = _do_nothing) -> None:
    """Write tensors and plain values with their digest, replacing the content of a file, and sync them to the disk.

    Args:
        content: tensors and plain values.
        path: the file.
        on_chunk: called every few MB; if it raises, writing ends.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        hashing = _HashingFile(file, on_chunk)
        try:
            torch.save(dict(content), cast("IO[bytes]", hashing))
        except RuntimeError:  # raised by torch when a write failed
            if hashing.error is None:
                raise
            raise hashing.error from None
        if hashing.held_back != b"\0\0":
            raise AssertionError("torch.save did not end with an empty archive comment")
        file.seek(-2, os.SEEK_END)
        file.write(_LENGTH_BYTES + _PREFIX + hashing.hasher.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def has_digest(path: Path) -> bool:
    """Whether a file ends with a digest, matching or not.

    Raises:
        OSError: the file cannot be read.
    """
    return stored_digest(path) is not None


def is_sparse(path: Path) -> bool:
    """Whether most of a file is not on the disk: such a file can have any size, and hashing it can take hours."""
    status = path.stat()
    return getattr(status, "st_blocks", status.st_size) * 512 < status.st_size // 2


def digest_matches(path: Path, on_chunk: Callable[[], None] = _do_nothing) -> bool:
    """Whether a file is exactly what `save_with_digest` wrote; False if it is not a regular file.

    Args:
        path: the file.
        on_chunk: called every few MB; if it raises, reading ends.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():  # opening a pipe would block until someone writes to it
        return False
    with path.open("rb") as file:  # once, because a run that trains may replace the file at any time
        stored = _digest_at_end(file)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return stored is not None and stored == _sha256(file, size - _LENGTH - 2, on_chunk)


def stored_digest(path: Path) -> str | None:
    """The digest at the end of a file, 64 hexadecimal digits, matching or not; None if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _digest_at_end(file)


def _digest_at_end(file: IO[bytes]) -> str | None:
    if file.seek(0, os.SEEK_END) < _LENGTH + 2:
        return None
    file.seek(-_LENGTH - 2, os.SEEK_END)
    end = file.read()
    if end[:2] != _LENGTH_BYTES or end[2 : 2 + len(_PREFIX)] != _PREFIX:
        return None
    return end[2 + len(_PREFIX) :].decode("latin1")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return _sha256(file, os.fstat(file.fileno()).st_size, _do_nothing)


def _sha256(file: IO[bytes], size: int, on_chunk: Callable[[], None]) -> str:
    """The SHA-256 of the next `size` bytes."""
    hasher = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        on_chunk()
        hasher.update(chunk)
        size -= len(chunk)
    return hasher.hexdigest()
