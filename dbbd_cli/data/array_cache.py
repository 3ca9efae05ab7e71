"""Named arrays on disk that are made once and then mapped into memory by every epoch, run and process.

A file is a header (JSON: name, type and shape of each array, and a checksum) and the arrays one after the other. Its
name holds the key of what it was made from, so that nothing is ever out of date; what is damaged is made again.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.files import best_effort_lock, remove_free_locks, repair_of, require_regular
from dbbd_cli.core.temporary import discard, remove_strays, temporary_file
from dbbd_cli.data.cache import make_cache_folder
from dbbd_cli.data.problems import why

Arrays = dict[str, np.ndarray]
_MAGIC = b"dbbdarr1"
_DTYPE = re.compile("[<>|][biuf][1248]")
_ALIGNMENT = 64
_LIMIT_BYTES = 40 * 1024**3


def cached_arrays(
    cache_dir: Path, kind: str, key: str, make: Callable[[], Arrays], usable: Callable[[Arrays], bool]
) -> Arrays:
    """The arrays of a key, made where the cache does not hold them whole.

    Args:
        cache_dir: folder of the caches.
        kind: what the arrays are, part of the file's name: lower-case letters.
        key: what they were made from, such as a hash of it.
        make: makes them; called by one process, while others that want the same wait for it.
        usable: a last look at arrays from a file; what it refuses is made again.

    Returns:
        The arrays by name, mapped into memory, read only.

    Raises:
        DiskError: the cache cannot be written.
    """
    path = _path(cache_dir, kind, key)
    if (arrays := _read(path, usable)) is not None:
        return arrays
    with ExitStack() as held:
        with _writing(cache_dir):
            make_cache_folder(cache_dir)
            held.enter_context(best_effort_lock(path.with_suffix(".lock")))
        if (arrays := _read(path, usable)) is not None:  # another process made it while this one waited
            return arrays
        made = make()
        with _writing(cache_dir):
            make_room(cache_dir, sum(array.nbytes for array in made.values()))
            _write(path, made)
    arrays = _read(path, usable)
    return made if arrays is None else arrays  # None: removed since, to make room for others


def read_cached(cache_dir: Path, kind: str, key: str, usable: Callable[[Arrays], bool]) -> Arrays | None:
    """The arrays of a key, as `cached_arrays` gives them, or None where the cache does not hold them whole."""
    return _read(_path(cache_dir, kind, key), usable)


def _path(cache_dir: Path, kind: str, key: str) -> Path:
    return cache_dir / f"{kind}-{key}.arrays"


@contextmanager
def _writing(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"the cache {cache_dir} cannot be written: {why(error)}",
            hint=f"{repair_of(error)}, or choose another folder with --set data.cache_dir=DIR",
        ) from error


def make_room(cache_dir: Path, needed: int, limit: int = _LIMIT_BYTES) -> None:
    """Removes the files that were used least recently until `needed` bytes fit below `limit`.

    What processes that were killed left goes first.
    """
    remove_strays(cache_dir)
    remove_free_locks(cache_dir)
    files = []
    for path in cache_dir.glob("*.arrays"):
        with suppress(FileNotFoundError):  # another process was quicker
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total + needed <= limit:
            return
        if _remove(path):
            total -= size


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # in use, on systems that forbid removing open files
        return False
    return True


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")


def _write(path: Path, arrays: Arrays) -> None:
    """Writes the file whole or not at all. What a power cut spoils, the checksum tells."""
    described = json.dumps([[name, array.dtype.str, array.shape] for name, array in arrays.items()])
    payload = [_padded(np.ascontiguousarray(array).tobytes()) for array in arrays.values()]
    checksum = zlib.crc32(described.encode())
    for part in payload:
        checksum = zlib.crc32(part, checksum)
    header = json.dumps({"arrays": described, "crc32": checksum}).encode()
    temporary = temporary_file(path)
    try:
        with temporary.open("wb") as file:
            file.write(_padded(_MAGIC + len(header).to_bytes(8, "little") + header))
            file.writelines(payload)
        temporary.replace(path)
    finally:
        discard(temporary)


def _read(path: Path, usable: Callable[[Arrays], bool]) -> Arrays | None:
    """The arrays of a file, or None where it is missing or damaged."""
    try:
        require_regular(path)
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except (OSError, ValueError):  # ValueError: the file is empty
        return None
    with suppress(OSError):  # the cache may be another user's
        os.utime(path)  # the time of last use, by which old files are removed
    header_size = int.from_bytes(content[8:16].tobytes(), "little")
    if content[:8].tobytes() != _MAGIC:
        return None
    arrays = {}
    position = _aligned(16 + header_size)
    try:
        header = json.loads(content[16 : 16 + header_size].tobytes())
        if zlib.crc32(content[position:].data, zlib.crc32(header["arrays"].encode())) != header["crc32"]:
            return None
        for name, dtype, shape in json.loads(header["arrays"]):
            if not _DTYPE.fullmatch(dtype) or not all(type(length) is int and length >= 0 for length in shape):
                return None
            size = math.prod(shape) * np.dtype(dtype).itemsize
            arrays[name] = content[position : position + size].view(dtype).reshape(shape)
            position += _aligned(size)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return arrays if usable(arrays) else None
