"""Images that are to be prepared, each known by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dbbd_cli.core.progress import Progress

MAX_FILE_BYTES = 256 * 2**20
"""Largest file that is read as an image."""


@dataclass(frozen=True)
class ImageRef:
    """An image to be prepared: a file with the hash of its content, or a URL to be rendered."""

    sha256: str
    path: str | None = None
    url: str | None = None

    @property
    def name(self) -> str:
        """What a person knows the image by."""
        return self.path or self.url or ""


def url_sha256(url: str) -> str:
    """The content hash of a URL."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def hash_files(paths: Sequence[str], progress: Progress) -> list[str | OSError]:
    """The SHA-256 of each file, or the error that reading it raised."""

    def digest(path: str) -> str | OSError:
        hasher = hashlib.sha256()
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - a Path object per file costs more than hashing it
                size = os.fstat(file.fileno()).st_size
                if size > MAX_FILE_BYTES:  # before hours are spent on a file of holes
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
