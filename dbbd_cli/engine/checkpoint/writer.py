"""Background saving: the state is copied, and a thread writes the copy to the disk while training continues."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from dbbd_cli.engine.checkpoint.files import save_checkpoint
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.sharding import is_shard, own_part, with_part

_POLL_SECONDS = 0.2


class _AbandonedError(Exception):
    """The process stops immediately, while a checkpoint is being written."""


class CheckpointWriter:
    """Writes checkpoints one at a time and in order; within its context, in a background thread.

    On leaving the context, everything is on the disk, or its error has been raised. Only a KeyboardInterrupt, which
    stops the process at once, abandons the checkpoint that is being written.

    Args:
        processes: those among which the states are divided, all of which write; with a connection of their own.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self._in_context = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._memory: _Memory | None = None

    def __enter__(self) -> None:
        self._in_context = True
        self._abandoned.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._abandoned.set()
            self.wait()
        except KeyboardInterrupt:  # while waiting
            self._abandoned.set()
            self._join()
            raise
        finally:
            self._in_context = False
            self._memory = None

    def reserve(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Allocate memory for copies of these, in the background. Only the first call has an effect."""
        if self._in_context and self._memory is None:
            self._memory = _Memory()
            self._start(self._copy, {"module": module.state_dict(), "optimizer": optimizer.state_dict()})

    def save(self, state: Mapping[str, Any], folder: Path, *, best: bool, keep: int, background: bool) -> None:
        """Make `state` the newest checkpoint of a run folder, after the previous save; see `save_checkpoint`.

        Args:
            state: tensors and plain values. Only `module` and `optimizer` may change afterwards.
            folder: the run folder.
            best: whether it becomes the best model, too.
            keep: how many of the newest checkpoints are kept.
            background: whether a background thread writes a copy of the state; within the context only.

        Raises:
            DiskError: this state or the previous one cannot be written.
        """
        self.wait()
        if background and self._in_context:
            copied = self._copy({key: state[key] for key in ("module", "optimizer")})
            if copied is not None:
                self._start(self._write, {**state, **copied}, folder, best, keep)
                return
        save_checkpoint(state, folder, best=best, keep=keep, processes=self.processes)

    def wait(self) -> None:
        """Wait until all states are on the disk.

        Raises:
            DiskError: a state cannot be written.
        """
        self._join()
        self.check()

    def check(self) -> None:
        """Raise the error of a background save, once.

        Raises:
            DiskError: a state cannot be written.
        """
        if (error := self._error) is not None:
            self._error = None
            raise error

    def _start(self, work: Callable[..., object], *arguments: Any) -> None:
        self._thread = threading.Thread(target=self._run, args=(work, *arguments), name="checkpoint")
        self._thread.start()

    def _run(self, work: Callable[..., object], *arguments: Any) -> None:
        try:
            work(*arguments)
        except _AbandonedError:
            pass
        except BaseException as error:  # raised by `check` in the main thread
            self._error = error

    def _copy(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A copy of the state; None if there is too little memory, and training has to wait for the save."""
        self._memory = self._memory or _Memory()
        try:
            return self._memory.copy(state)
        except (MemoryError, RuntimeError):  # PyTorch raises RuntimeError
            self._memory = _Memory()
            return None

    def _write(self, state: Mapping[str, Any], folder: Path, best: bool, keep: int) -> None:
        abandoning = self._require_not_abandoned
        save_checkpoint(state, folder, best=best, keep=keep, on_chunk=abandoning, processes=self.processes)

    def _require_not_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise _AbandonedError

    def _join(self) -> None:
        # With a timeout: on Windows, a wait without one does not react to signals.
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
        self._thread = None


class _Memory:
    """Reusable memory for copies of a state: allocating it anew for each copy is slow."""

    def __init__(self) -> None:
        self._kept: dict[int, list[torch.UntypedStorage]] = {}

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A deep copy on the CPU, valid until the next one."""
        free = {size: list(storages) for size, storages in self._kept.items()}
        copies: dict[int, torch.UntypedStorage] = {}  # tensors that share memory keep sharing it
        devices = set()

        def copied(value: Any) -> Any:
            if is_shard(value):
                return with_part(value, copied(own_part(value)))
            if isinstance(value, torch.Tensor):
                source = value.untyped_storage()
                if source.data_ptr() not in copies:
                    copies[source.data_ptr()] = self._take(source, free).copy_(source, non_blocking=True)
                    devices.add(source.device)
                place = (copies[source.data_ptr()], value.storage_offset(), value.size(), value.stride())
                return torch.empty(0, dtype=value.dtype).set_(*place)
            if isinstance(value, dict):
                result = copy.copy(value)  # of the same type: state dicts are OrderedDicts with metadata
                result.update((key, copied(item)) for key, item in value.items())
                return result
            if isinstance(value, (list, tuple)):
                return type(value)(map(copied, value))
            return value

        result = copied(state)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return result

    def _take(self, source: torch.UntypedStorage, free: dict[int, list[torch.UntypedStorage]]) -> torch.UntypedStorage:
        size = source.nbytes()
        if not free.get(size):
            pinned = source.device.type == "cuda"
            storage = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
            self._kept.setdefault(size, []).append(storage)
            return storage
        return free[size].pop()
