"""How a batch gets from a worker process to the main process: as one file in shared memory, by its name.

PyTorch would send each tensor through a socket served by a thread of the worker, whose errors are lost: a full
/dev/shm, or a low limit on open files, would look like a worker that hangs. Here the worker returns every error, and a
batch takes one file descriptor instead of dozens.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.errors import DataError, DbbdError
from dbbd_cli.core.limits import TOO_MANY_FILES, open_files_limit
from dbbd_cli.core.text import counted

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its place on Linux
PREFETCH = 2
"""Batches that each worker prepares in advance."""
_ALIGNMENT = 64


def shared_folder() -> Path:
    """Where batches are handed over: in shared memory if the system has it, otherwise in the temporary folder."""
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return SHARED_MEMORY
    return Path(tempfile.gettempdir())


class Handover:
    """Writes the batches of a worker to files; unpickling in the main process turns them into tensors again.

    Args:
        folder: folder of the files, in `shared_folder()`.
        num_workers: number of workers of the loader.
        num_batches: number of batches per epoch.
        in_use: most batches that the main process uses at the same time.
    """

    def __init__(self, folder: Path, num_workers: int, num_batches: int, in_use: int = 1) -> None:
        self.folder = folder
        self.num_workers = num_workers
        self.in_use = in_use
        # Those prepared by each worker, those in use by the main process, and the one being handed over.
        self.most = min(PREFETCH * num_workers + in_use + 1, num_batches)
        # Before any worker starts: this loader has written nothing yet.
        self.room = shutil.disk_usage(folder.parent).free
        self._written = 0

    def __call__(self, batch: Any) -> Any:
        """What a worker sends instead of a batch: the batch in a file, or the error that prevents that."""
        if isinstance(batch, DbbdError):
            return batch
        storages: dict[tuple[int, int], torch.UntypedStorage] = {}

        def put(tensor: torch.Tensor) -> _Piece:
            storage = tensor.untyped_storage()
            key = (storage.data_ptr(), storage.nbytes())
            storages.setdefault(key, storage)
            number = list(storages).index(key)
            return _Piece(number, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

        pieces = _map(batch, torch.Tensor, put)
        sizes = [storage.nbytes() for storage in storages.values()]
        size = _starts(sizes)[-1]
        if not size:
            return batch
        if self._written == 0 and (found := self._too_little(size)) is not None:
            return found
        self._written += 1
        parts = [_as_bytes(storage).numpy().data for storage in storages.values()]
        padded = [part for memory in parts for part in (memory, bytes(-len(memory) % _ALIGNMENT))]
        path = self.folder / f"{os.getpid()}-{self._written}"
        try:
            with path.open("xb") as file:
                file.writelines(padded)
        except FileNotFoundError:  # the folder was removed: systemd empties /dev/shm when a user logs out
            return _Parcel(b"".join(padded), sizes, pieces)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            return self._refusal(error, size)
        return _Parcel(str(path), sizes, pieces)

    def _too_little(self, size: int) -> DataError | None:
        """The error if as many batches of this size as there can be at the same time do not fit."""
        needed = self.most * size
        if needed <= self.room:
            return None
        fitting = max((self.room // size - self.in_use - 1) // PREFETCH, 0)
        place = self.folder.parent
        return DataError(
            f"{place} has {self.room / 1e6:,.1f} MB free, and batches of {size / 1e6:,.1f} MB from "
            f"{counted(self.num_workers, 'process')} need {needed / 1e6:,.1f} MB",
            hint=_more_room(place, needed, fitting),
        )

    def _refusal(self, error: OSError, size: int) -> DataError:
        if error.errno in TOO_MANY_FILES:
            return too_many_files(error)
        place = self.folder.parent
        if error.errno == errno.EFBIG:
            return DataError(
                f"a batch of {size / 1e6:,.1f} MB cannot be written to {place}: {error.strerror}",
                hint="raise the limit on the size of a file (ulimit -f)",
            )
        free = shutil.disk_usage(place).free
        return DataError(
            f"a batch of {size / 1e6:,.1f} MB cannot be written to {place}, which has {free / 1e6:,.1f} MB free: "
            f"{error.strerror or error}",
            hint=_more_room(place, self.most * size, 0),
        )


def _more_room(place: Path, needed: int, fitting: int) -> str:
    gigabytes = math.ceil(2 * needed / 1e9)
    container = f" (Docker: --shm-size={gigabytes}g or --ipc=host)" if place == SHARED_MEMORY else ""
    fewer = f"data.num_workers={fitting} fits, and 0" if fitting else "data.num_workers=0"
    return f"make it larger{container}, or load with fewer processes: {fewer} loads in the main process"


def too_many_files(error: OSError) -> DataError:
    """The error for a process that cannot open another file."""
    return DataError(
        f"loading a batch failed: {error.strerror or error}",
        hint=f"raise the limit on open files ({open_files_limit()})",
    )


@dataclass(frozen=True)
class _Piece:
    """A tensor of a batch, as a view of one of its storages."""

    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Parcel:
    """A batch in transit: unpickling it gives the batch, or the OSError that prevents that."""

    source: str | bytes
    sizes: list[int]
    pieces: Any

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return _unpacked, (self.source, self.sizes, self.pieces)


def _unpacked(source: str | bytes, sizes: list[int], pieces: Any) -> Any:
    try:
        content = np.frombuffer(bytearray(source), np.uint8) if isinstance(source, bytes) else _taken(source)
    except OSError as error:
        return error
    except ValueError:  # the file is empty
        content = np.empty(0, np.uint8)
    starts = _starts(sizes)
    if len(content) != starts[-1]:
        return FileNotFoundError(errno.ENOENT, "the file of the batch was cut short")
    storages = [
        torch.from_numpy(content[start : start + size]).untyped_storage() if size else torch.UntypedStorage(0)
        for start, size in zip(starts, sizes, strict=False)
    ]

    def view(piece: _Piece) -> torch.Tensor:
        empty = torch.empty(0, dtype=piece.dtype)
        return empty.set_(storages[piece.storage], piece.offset, piece.shape, piece.stride)

    return _map(pieces, _Piece, view)


def _taken(path: str) -> np.ndarray:
    """Maps the content of a file into memory and removes the file: the memory is freed with the last tensor."""
    mapped = os.name == "posix"  # Windows cannot remove a file that is mapped
    content = np.asarray(np.memmap(path, np.uint8, mode="c")) if mapped else np.fromfile(path, np.uint8)
    with suppress(OSError):
        Path(path).unlink()
    return content


def _starts(sizes: list[int]) -> list[int]:
    """Where each storage begins in the file, and where the file ends."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size + -size % _ALIGNMENT)
    return starts


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _map(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Applies a function to all values of a type within nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple):
        items = [_map(item, kind, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_map(item, kind, function) for item in value]
    if isinstance(value, dict):
        return {key: _map(item, kind, function) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _map(getattr(value, field.name), kind, function) for field in fields(value)})
    return value
