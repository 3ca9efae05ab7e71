"""Files of tensors that carry their own SHA-256, so that a changed bit shows wherever the file is taken.

`torch.save` makes a ZIP archive. The digest stands in the archive's comment, at the very end of the file: other
programs read such a file as any other. It covers all that stands before, but for the two bytes with the length of the
comment.
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


def _nothing() -> None:
    pass


class _HashingFile:
    """Hashes what is written, but for the last two bytes, so that the digest needs no second reading."""

    def __init__(self, file: IO[bytes], between: Callable[[], None]) -> None:
        self.file = file
        self.between = between
        self.hasher = hashlib.sha256()
        self.held_back = b""
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _CHUNK):  # torch gives a tensor in one piece, of any size
                self.between()
                self._write_chunk(view[start : start + _CHUNK])
        except BaseException as error:  # an interrupt too: torch puts an error of its own in the place of any
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


def save_with_digest(content: Mapping[str, Any], path: Path, between: Callable[[], None] = _nothing) -> None:
    """Writes tensors and plain values through to the disk, with their digest, replacing the content of a file.

    Args:
        content: what is written.
        path: the file.
        between: called every few MB; what it raises ends the writing.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        hashing = _HashingFile(file, between)
        try:
            torch.save(dict(content), cast("IO[bytes]", hashing))
        except RuntimeError:  # how torch reports that a write failed
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
    """Whether a file ends as `save_with_digest` ends one, be it right or wrong.

    Raises:
        OSError: the file cannot be read.
    """
    return _seal(path) is not None


def has_holes(path: Path) -> bool:
    """Whether a file is mostly holes: it can have any size, and reading it can take any time."""
    status = path.stat()
    return getattr(status, "st_blocks", status.st_size) * 512 < status.st_size // 2


def digest_matches(path: Path, between: Callable[[], None] = _nothing) -> bool:
    """Whether a file is, to the last bit, what `save_with_digest` wrote; what is no file is not.

    Args:
        path: the file.
        between: called every few MB; what it raises ends the reading.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():  # opening a pipe would wait for somebody to write to it
        return False
    seal = _seal(path)
    return seal is not None and seal == _digest(path, path.stat().st_size - _LENGTH - 2, between)


def _seal(path: Path) -> str | None:
    """The digest that the file's end gives."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < _LENGTH + 2:
            return None
        file.seek(-_LENGTH - 2, os.SEEK_END)
        end = file.read()
    if end[:2] != _LENGTH_BYTES or end[2 : 2 + len(_PREFIX)] != _PREFIX:
        return None
    return end[2 + len(_PREFIX) :].decode("latin1")


def _digest(path: Path, size: int, between: Callable[[], None]) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, _CHUNK))):
            between()
            hasher.update(chunk)
            size -= len(chunk)
    return hasher.hexdigest()
