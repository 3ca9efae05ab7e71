"""Reading `.npy` and `.npz` files of numbers, with every size checked before memory is asked for it."""

from __future__ import annotations

import io
import math
import os
import threading
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

_MAX_HEADER_BYTES = 10_000
_PART_BYTES = 1 << 20
_MAX_DIRECTORY_BYTES = 1 << 22
"""Largest table of contents of an archive in bytes; an entry takes about 60, and ten times as many in memory."""
_PARSING = threading.Lock()
"""Python's own parser, which reads the headers, is not thread-safe (SystemError, up to Python 3.12)."""
_NO_ARRAY = "is no array in the format of NumPy, or has a damaged header"
_T = TypeVar("_T")


def read_npy(path: Path, max_values: int) -> np.ndarray:
    """Reads an array of at most `max_values` numbers.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no array of numbers, truncated or too large; the message says which.
    """
    with path.open("rb") as file:
        return _read_array(file, os.fstat(file.fileno()).st_size, max_values)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays of an archive, in lower case and in its order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an archive.
    """
    return _from_archive(path, lambda archive: list(map(_name, archive.infolist())))


def read_npz(path: Path, names: Collection[str], max_values: int) -> dict[str, np.ndarray]:
    """Reads those arrays of an archive whose names, in lower case, are among `names`.

    The compression ratio does not matter: no more is unpacked than the header of an array declares, which is at most
    `max_values` numbers.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an archive, or an array in it cannot be used; the message says which.
    """

    def read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for entry in archive.infolist():
            name = _name(entry)
            if name not in names or name in arrays:
                continue
            try:
                with archive.open(entry) as member:
                    arrays[name] = _read_array(member, entry.file_size, max_values)
            except ValueError as error:
                raise ValueError(f"its array {name} {error}") from error
        return arrays

    return _from_archive(path, read)


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy").lower()


class _BoundedFile(io.BufferedReader):
    """A file of which only bounded parts are read: `zipfile` reads a table of contents of any length in one part."""

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes; all remaining ones without a size, which is how `zipfile` reads the last few."""
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ValueError("has too many arrays: its list of them is too long")
        return super().read(size)


def _from_archive(path: Path, read: Callable[[zipfile.ZipFile], _T]) -> _T:
    with _BoundedFile(path.open("rb", buffering=0)) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return read(archive)
        except Exception as error:  # of any kind: zipfile meets damaged archives with a dozen of them
            if type(error) in (ValueError, MemoryError):
                raise
            raise ValueError("is not an archive of arrays, or is damaged") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis runs fastest, and type of the array that follows."""
    magic = file.read(8)
    start = magic + file.read(2 if magic[6:] == b"\1\0" else 4)
    length = int.from_bytes(start[8:], "little")
    read_header = {
        b"\x93NUMPY\1\0": np.lib.format.read_array_header_1_0,
        b"\x93NUMPY\2\0": np.lib.format.read_array_header_2_0,
    }.get(magic)
    if read_header is None or length > _MAX_HEADER_BYTES:
        raise ValueError(_NO_ARRAY)
    try:
        with _PARSING:
            return read_header(io.BytesIO(start[8:] + file.read(length)))
    except Exception as error:  # it is read with Python's own parser, which raises whatever the text leads it to
        raise ValueError(_NO_ARRAY) from error


def _read_array(file: IO[bytes], size: int, max_values: int) -> np.ndarray:
    shape, is_fortran, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects instead of numbers, which are not read")
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype} instead of numbers")
    count = math.prod(shape)
    if any(type(length) is not int for length in shape):  # NumPy lets True pass for 1
        raise ValueError(_NO_ARRAY)
    if any(length < 0 for length in shape) or count > max_values:
        raise ValueError(f"promises {count:,} values; at most {max_values:,} are read: thin it out first")
    needed = count * dtype.itemsize
    if needed > size - file.tell():
        raise ValueError("is truncated")
    raw = bytearray(needed)
    view, place = memoryview(raw), 0
    while place < needed:  # in parts: an archive would make a second copy of what is read at once
        if not (count_read := file.readinto(view[place : place + _PART_BYTES])):  # type: ignore[attr-defined]
            raise ValueError("is truncated")
        place += count_read
    return np.ndarray(shape, dtype, buffer=raw, order="F" if is_fortran else "C")
