"""References to images, each identified by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.problems import short

MAX_FILE_BYTES = 256 * 2**20
"""Size limit of image files."""


@dataclass(frozen=True)
class ImageRef:
    """An image to be prepared: a file, or a URL to be rendered as a QR code, with the hash of its content."""

    sha256: str
    path: str | None = None
    url: str | None = None

    @property
    def name(self) -> str:
        """The path, or the URL up to a length that a line of a message can hold."""
        return self.path or short(self.url or "")


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
