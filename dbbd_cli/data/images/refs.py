"""References to images, each identified by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from dbbd_cli.core.files import read_file
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.problems import short

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_FILE_BYTES = 256 * 2**20
"""Size limit of image files."""


class Part(NamedTuple):
    """Where an image lies in a larger file, a tar shard.

    Attributes:
        file: the file.
        offset: number of bytes before the image.
        size: number of bytes of the image.
    """

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class ImageRef:
    """An image to be prepared, with the hash of its content: a file, or a URL to be rendered as a QR code."""

    sha256: str
    path: str | None = None
    """The file; of an image in a shard, that of the shard and the name in it, for messages."""
    url: str | None = None
    part: Part | None = None
    """Where the image lies in a shard; None for other images."""

    @property
    def name(self) -> str:
        """The path, or the URL up to a length that a line of a message can hold."""
        return self.path or short(self.url or "")


class _Window(io.RawIOBase):
    """A part of a file as a file of its own, read-only; it ends early if the file has become shorter."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._file = open(part.file, "rb", buffering=0)  # noqa: SIM115, PTH123 - closed by close()
        self._start, self._size, self._position = part.offset, part.size, 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        count = self._file.readinto(view) or 0
        self._position += count
        return count


def open_image_file(path: str, part: Part | None) -> BinaryIO:
    """Open an image file for reading; for the arguments, see `ImageRef`.

    Raises:
        OSError: it cannot be opened.
    """
    if part is None:
        return open(path, "rb")  # noqa: PTH123 - a Path object per file is slow
    return io.BufferedReader(_Window(part))


def read_image_file(path: str, part: Part | None) -> bytes:
    """Return the content of an image file; for the arguments, see `ImageRef`.

    Raises:
        OSError: it cannot be read, or is too large.
    """
    if part is None:
        return read_file(Path(path), MAX_FILE_BYTES)
    with open_image_file(path, part) as file:
        return file.read()


def hash_files(paths: Sequence[str], progress: Progress) -> list[str | OSError]:
    """Compute the SHA-256 of each file; for an unreadable one, return its error instead."""

    def digest(path: str) -> str | OSError:
        hasher = hashlib.sha256()
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - a Path object per file costs more than hashing it
                size = os.fstat(file.fileno()).st_size
                if size > MAX_FILE_BYTES:  # a sparse file can take hours to read
                    return OSError(errno.EFBIG, f"it has {size:,} bytes (limit {MAX_FILE_BYTES:,})", path)
                while chunk := file.read(1 << 20):
                    hasher.update(chunk)
        except OSError as error:
            return error
        return hasher.hexdigest()

    hashes = []
    with progress.phase("Hashing", len(paths), unit="files") as bar, ThreadPoolExecutor(8) as pool:
        for result in pool.map(digest, paths):
            hashes.append(result)
            bar.advance()
    return hashes
