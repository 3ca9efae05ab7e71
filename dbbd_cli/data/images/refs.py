"""References to images, each identified by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.problems import short

MAX_FILE_BYTES = 256 * 2**20
"""Size limit of image files."""
_FILES_PER_TASK = 32
"""A task of a thread costs as much as hashing a small file."""


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


class ImageRefs(Sequence[ImageRef]):
    """Many references, all of files or all of URLs, packed: worker processes share a few large arrays.

    A worker process that looks at a Python object writes to its page, which copies it; and one that is not forked gets
    every object in a message.

    Args:
        sha256: the `sha256` of each.
        names: the path or the URL of each.
        are_urls: whether the names are URLs.
    """

    def __init__(self, sha256: Iterable[str], names: Iterable[str], *, are_urls: bool) -> None:
        self.sha256, self.names, self.are_urls = _Packed(sha256), _Packed(names), are_urls

    @staticmethod
    def of(refs: Sequence[ImageRef]) -> ImageRefs:
        """Return the given references."""
        if isinstance(refs, ImageRefs):
            return refs
        are_urls = len(refs) > 0 and refs[0].url is not None
        names = ((ref.url if are_urls else ref.path) or "" for ref in refs)
        return ImageRefs((ref.sha256 for ref in refs), names, are_urls=are_urls)

    def __len__(self) -> int:
        return len(self.sha256)

    @overload
    def __getitem__(self, place: int) -> ImageRef: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageRef]: ...
    def __getitem__(self, place: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        name = self.names[place]
        return ImageRef(self.sha256[place], None if self.are_urls else name, name if self.are_urls else None)

    def at(self, places: Sequence[int]) -> ImageRefs:
        """Return the references at the given places."""
        sha256, names = ([column[place] for place in places] for column in (self.sha256, self.names))
        return ImageRefs(sha256, names, are_urls=self.are_urls)

    def without(self, places: Container[int]) -> ImageRefs:
        """Return the references that are not at any of the given places."""
        kept = [place for place in range(len(self)) if place not in places]
        return self if len(kept) == len(self) else self.at(kept)

    @cached_property
    def digest(self) -> str:
        """A hash of the content of all images."""
        return hashlib.sha256(f"{'url' if self.are_urls else 'file'}:{self.sha256.digest()}".encode()).hexdigest()


class _Packed(Sequence[str]):
    """Texts, one after the other in one object."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        first = range(len(self))[place]
        return self._bytes[self._ends[first] : self._ends[first + 1]].decode("utf-8", "surrogatepass")

    def digest(self) -> str:
        """A hash of all texts."""
        hasher = hashlib.sha256(self._ends.astype("<i8").tobytes())
        hasher.update(self._bytes)
        return hasher.hexdigest()

    def __iter__(self) -> Iterator[str]:
        first = 0
        for end in self._ends[1:].tolist():
            yield self._bytes[first:end].decode("utf-8", "surrogatepass")
            first = end


def hash_files(paths: Sequence[str], progress: Progress) -> list[str | OSError]:
    """Compute the SHA-256 of each file; for an unreadable one, return its error instead."""

    def digest(path: str) -> str | OSError:
        hasher = hashlib.sha256()
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path object per file costs more than hashing it
                size = os.fstat(file.fileno()).st_size
                if size > MAX_FILE_BYTES:  # a sparse file can take hours to read
                    return OSError(errno.EFBIG, f"it has {size:,} bytes (limit {MAX_FILE_BYTES:,})", path)
                while chunk := file.read(1 << 20):
                    hasher.update(chunk)
        except OSError as error:
            return error
        return hasher.hexdigest()

    def digests(first: int) -> list[str | OSError]:
        return [digest(path) for path in paths[first : first + _FILES_PER_TASK]]

    hashes: list[str | OSError] = []
    with progress.phase("Hashing", len(paths), unit="files") as bar, ThreadPoolExecutor(8) as pool:
        for found in pool.map(digests, range(0, len(paths), _FILES_PER_TASK)):
            hashes += found
            bar.advance(len(found))
    return hashes
