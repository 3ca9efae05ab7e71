"""References to images, each identified by the hash of its content."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, overload

import numpy as np

from dbbd_cli.core.files import read_file
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.problems import short

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_FILE_BYTES = 256 * 2**20
"""Size limit of image files."""
_FILES_PER_TASK = 32
"""A task of a thread costs as much as hashing a small file."""


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


@dataclass(frozen=True, slots=True)
class Parts:
    """Where N images lie in a few larger files, tar shards.

    Attributes:
        files: the larger files.
        file: position among these of the one that each image lies in, `(N,)`, int32.
        offset: number of bytes before each image, `(N,)`, int64.
        size: number of bytes of each image, `(N,)`, int64.
    """

    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    @staticmethod
    def of(parts: Sequence[Part]) -> Parts:
        """Return the given parts."""
        files = {file: place for place, file in enumerate(dict.fromkeys(part.file for part in parts))}
        return Parts(
            files=tuple(files),
            file=np.array([files[part.file] for part in parts], np.int32),
            offset=np.array([part.offset for part in parts], np.int64),
            size=np.array([part.size for part in parts], np.int64),
        )

    def part(self, place: int) -> Part:
        """Return where an image lies."""
        return Part(self.files[self.file[place]], int(self.offset[place]), int(self.size[place]))

    def at(self, places: Sequence[int]) -> Parts:
        """Return where the images at the given places lie."""
        return Parts(self.files, self.file[places], self.offset[places], self.size[places])


class ImageRefs(Sequence[ImageRef]):
    """Many references, all of files, of parts of shards, or of URLs, packed: worker processes share a few large arrays.

    A worker process that looks at a Python object writes to its page, which copies it; and one that is not forked gets
    every object in a message.

    Args:
        sha256: the `sha256` of each.
        names: the path or the URL of each.
        are_urls: whether the names are URLs.
        parts: the `part` of each; None if they are not in shards.
    """

    def __init__(
        self, sha256: Iterable[str], names: Iterable[str], *, are_urls: bool, parts: Parts | None = None
    ) -> None:
        self.sha256, self.names, self.are_urls, self.parts = _Packed(sha256), _Packed(names), are_urls, parts

    @staticmethod
    def of(refs: Sequence[ImageRef]) -> ImageRefs:
        """Return the given references."""
        if isinstance(refs, ImageRefs):
            return refs
        are_urls = len(refs) > 0 and refs[0].url is not None
        names = ((ref.url if are_urls else ref.path) or "" for ref in refs)
        parts = [ref.part for ref in refs if ref.part is not None]
        assert len(parts) in (0, len(refs))
        return ImageRefs(
            (ref.sha256 for ref in refs), names, are_urls=are_urls, parts=Parts.of(parts) if parts else None
        )

    def __len__(self) -> int:
        return len(self.sha256)

    @overload
    def __getitem__(self, place: int) -> ImageRef: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageRef]: ...
    def __getitem__(self, place: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        sha256, name = self.sha256[place], self.names[place]
        if self.are_urls:
            return ImageRef(sha256, url=name)
        return ImageRef(sha256, path=name, part=None if self.parts is None else self.parts.part(place))

    def at(self, places: Sequence[int]) -> ImageRefs:
        """Return the references at the given places."""
        sha256, names = ([column[place] for place in places] for column in (self.sha256, self.names))
        return ImageRefs(
            sha256, names, are_urls=self.are_urls, parts=None if self.parts is None else self.parts.at(places)
        )

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
        texts = list(texts)
        self._bytes = "".join(texts).encode("utf-8", "surrogatepass")
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        if sizes.sum() < len(self._bytes):  # not all of them are ASCII
            sizes[:] = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
        self._ends = np.concatenate([[0], sizes.cumsum()])

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
