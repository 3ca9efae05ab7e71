"""`.npy` and `.npz` files of numbers, read with `numpy.load` and limits on their size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_VALUE_BYTES = 8
"""Size of the largest number that NumPy has on every system."""
_HEADER_BYTES = 1 << 16


def read_npy(path: Path, max_values: int, *, mapped: bool = False) -> np.ndarray:
    """Read an array of at most `max_values` numbers.

    Args:
        path: the file.
        max_values: see above.
        mapped: whether to leave the array in the file, which must not change.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an array of numbers, is damaged or too large; the message says which.
    """
    with _damage():
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    _check(array, max_values)
    return np.asarray(array) if mapped else np.array(array)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays of an archive, in lower case and in its order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an archive, or is damaged.
    """
    with _damage(), np.load(path, allow_pickle=False) as archive:
        return [name.lower() for name in archive.files]


def read_npz(path: Path, name: str, max_values: int) -> np.ndarray:
    """Read the first array of an archive whose name in lower case is `name`, of at most `max_values` numbers.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an archive, or the array cannot be used; the message says which.
    """
    with _damage(f"its array {name} "), np.load(path, allow_pickle=False) as archive:
        key = next(key for key in archive.files if key.lower() == name)
        # A name may occur twice, with and without the suffix too.
        size = max(entry.file_size for entry in archive.zip.infolist() if entry.filename.removesuffix(".npy") == key)
        # No more than this is unpacked, whatever the header of the array declares.
        array = archive[key] if size <= max_values * _VALUE_BYTES + _HEADER_BYTES else None
    try:
        if array is None:
            raise ValueError(f"has {size:,} bytes; at most {max_values:,} values are read: downsample it first")
        _check(array, max_values)
        return array
    except ValueError as error:
        raise ValueError(f"its array {name} {error}") from error


@contextmanager
def _damage(what: str = "") -> Iterator[None]:
    """Turn whatever numpy, zipfile and the decompressors raise for a damaged file into a ValueError."""
    try:
        with np.errstate(over="ignore"):
            yield
    except (FileNotFoundError, PermissionError):
        raise
    except MemoryError as error:
        raise ValueError(f"{what}does not fit into free memory") from error
    except Exception as error:
        raise ValueError(f"{what}is not an array of numbers in NumPy format, or is damaged") from error


def _check(array: Any, max_values: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError("is not an array of numbers in NumPy format")
    if array.size > max_values:
        raise ValueError(f"has {array.size:,} values; at most {max_values:,} are read: downsample it first")
