"""Passing batches from a worker process to the main process, each as one file in shared memory.

PyTorch would send each tensor through a socket served by a thread of the worker, whose errors are lost: a full
/dev/shm or a low limit on open files would look like a hanging worker. Here the worker returns every error, and a batch
takes one file descriptor instead of dozens.
"""

from __future__ import annotations

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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a fixed path on Linux
PREFETCH = 2
"""Batches that each worker prepares in advance."""
_ALIGNMENT = 64


def shared_folder() -> Path:
    """Return the folder for batches in transit: shared memory if available, otherwise the temporary folder."""
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return SHARED_MEMORY
    return Path(tempfile.gettempdir())


class Handover:
    """Collate function that writes the batches of a worker to files; unpickling them gives tensors again.

    Args:
        folder: folder of the files, in `shared_folder()`.
        num_workers: number of workers of the loader.
        num_batches: number of batches per epoch.
        in_use: maximum number of batches that the main process uses at the same time.
    """

    def __init__(self, folder: Path, num_workers: int, num_batches: int, in_use: int = 1) -> None:
        self.folder = folder
        self.num_workers = num_workers
        self.in_use = in_use
        # The prefetched ones, those in use by the main process, and the one in transit.
        self.max_batches = min(PREFETCH * num_workers + in_use + 1, num_batches)
        # Measured before any worker starts: this loader has written nothing yet.
        self.free_bytes = shutil.disk_usage(folder.parent).free
        self._written = 0

    def __call__(self, batch: Any) -> Any:
        """Return what a worker sends in place of a batch: a parcel that refers to a file, or an error."""
        if isinstance(batch, DbbdError):
            return batch
        storages: dict[tuple[int, int], torch.UntypedStorage] = {}

        def view_of(tensor: torch.Tensor) -> _View:
            storage = tensor.untyped_storage()
            key = (storage.data_ptr(), storage.nbytes())
            storages.setdefault(key, storage)  # once, however many tensors share it
            number = list(storages).index(key)
            return _View(number, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

        views = _map_nested(batch, torch.Tensor, view_of)
        sizes = [storage.nbytes() for storage in storages.values()]
        size = _offsets(sizes)[-1]
        if not size:
            return batch
        if self._written == 0 and (error := self._out_of_room(size)) is not None:
            return error
        self._written += 1
        parts = [_as_bytes(storage).numpy().data for storage in storages.values()]
        padded = [part for memory in parts for part in (memory, bytes(-len(memory) % _ALIGNMENT))]
        path = self.folder / f"{os.getpid()}-{self._written}"
        try:
            self.folder.mkdir(0o700, exist_ok=True)  # systemd empties /dev/shm when a user logs out
            with path.open("xb") as file:
                file.writelines(padded)
        except OSError as os_error:
            with suppress(OSError):
                path.unlink()
            return self._write_error(os_error, size)
        return _Parcel(str(path), sizes, views)

    def _out_of_room(self, size: int) -> DataError | None:
        """Return an error if the batches that may exist at the same time do not fit, given the size of one."""
        needed = self.max_batches * size
        if needed <= self.free_bytes:
            return None
        fitting = max((self.free_bytes // size - self.in_use - 1) // PREFETCH, 0)
        place = self.folder.parent
        return DataError(
            f"{place} has {self.free_bytes / 1e6:,.1f} MB free, and batches of {size / 1e6:,.1f} MB from "
            f"{counted(self.num_workers, 'data worker')} need {needed / 1e6:,.1f} MB",
            hint=_room_hint(place, needed, fitting),
        )

    def _write_error(self, error: OSError, size: int) -> DataError:
        if error.errno in TOO_MANY_FILES:
            return too_many_files(error)
        place = self.folder.parent
        free = shutil.disk_usage(place).free
        return DataError(
            f"a batch of {size / 1e6:,.1f} MB cannot be written to {place}, which has {free / 1e6:,.1f} MB free: "
            f"{error.strerror or error}",
            hint=_room_hint(place, self.max_batches * size, 0),
        )


def _room_hint(place: Path, needed: int, fitting: int) -> str:
    gigabytes = math.ceil(2 * needed / 1e9)
    container = f" (Docker: --shm-size={gigabytes}g or --ipc=host)" if place == SHARED_MEMORY else ""
    fewer = f"data.num_workers={fitting} fits, and 0" if fitting else "data.num_workers=0"
    return f"make it larger{container}, or use fewer data workers: {fewer} loads in the main process"


def too_many_files(error: OSError) -> DataError:
    """Return the error for a process that cannot open any more files."""
    return DataError(
        f"loading a batch failed: {error.strerror or error}",
        hint=f"raise the limit on open files ({open_files_limit()})",
    )


@dataclass(frozen=True)
class _View:
    """A tensor of a batch: a view of one of its storages."""

    storage: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Parcel:
    """A batch in transit; unpickling it gives the batch itself, or an OSError if its file cannot be read."""

    path: str
    sizes: list[int]
    views: Any

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return _unpack, (self.path, self.sizes, self.views)


def _unpack(path: str, sizes: list[int], views: Any) -> Any:
    try:
        content = _map_and_remove(path)
    except OSError as error:
        return error
    storages = [
        torch.from_numpy(content[start : start + size]).untyped_storage() if size else torch.UntypedStorage(0)
        for start, size in zip(_offsets(sizes), sizes, strict=False)
    ]

    def tensor_of(view: _View) -> torch.Tensor:
        empty = torch.empty(0, dtype=view.dtype)
        return empty.set_(storages[view.storage], view.offset, view.shape, view.stride)

    return _map_nested(views, _View, tensor_of)


def _map_and_remove(path: str) -> np.ndarray:
    """Map a file into memory and remove it: the memory is freed with the last tensor."""
    can_remove_mapped = os.name == "posix"
    content = np.asarray(np.memmap(path, np.uint8, mode="c")) if can_remove_mapped else np.fromfile(path, np.uint8)
    with suppress(OSError):
        Path(path).unlink()
    return content


def _offsets(sizes: list[int]) -> list[int]:
    """Return the offset of each storage in the file, and the size of the file."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + size + -size % _ALIGNMENT)
    return offsets


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _map_nested(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Apply a function to all values of a type in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple):
        items = [_map_nested(item, kind, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_map_nested(item, kind, function) for item in value]
    if isinstance(value, dict):
        return {key: _map_nested(item, kind, function) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        values = {field.name: _map_nested(getattr(value, field.name), kind, function) for field in fields(value)}
        return type(value)(**values)
    return value
