"""Saving beside training: the state is copied, and a thread writes the copy to the disk while training goes on."""

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

_SECONDS_BETWEEN_LOOKS = 0.2


class _GivenUpError(Exception):
    """The program is to stop at once, while a checkpoint is written."""


class CheckpointWriter:
    """Writes checkpoints, one at a time and in order; within its context beside what the main thread does.

    When the context is left, all that was handed over is on the disk, or its error has been raised. Only a
    KeyboardInterrupt, which is to stop the program at once, gives up what is being written.
    """

    def __init__(self) -> None:
        self._within = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._given_up = threading.Event()
        self._memory: _Memory | None = None

    def __enter__(self) -> None:
        self._within = True
        self._given_up.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._given_up.set()
            self.wait()
        except KeyboardInterrupt:  # while it was waited for
            self._given_up.set()
            self._join()
            raise
        finally:
            self._within = False
            self._memory = None

    def reserve(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Takes the memory for copies of these, beside training. Only the first call, after a step, does anything."""
        if self._within and self._memory is None:
            self._memory = _Memory()
            # Nobody reads this copy.
            self._start(self._copy, {"module": module.state_dict(), "optimizer": optimizer.state_dict()})

    def save(self, state: Mapping[str, Any], folder: Path, *, best: bool, keep: int, background: bool) -> None:
        """Makes `state` the newest checkpoint of a run folder, once the save before it is over; see `save_checkpoint`.

        Args:
            state: tensors and plain values. What goes on changing may lie in `module` and `optimizer` only.
            folder: the run folder.
            best: whether it becomes the best model too.
            keep: how many of the newest are kept.
            background: whether to come back as soon as the state is copied, where this is within the context.

        Raises:
            DiskError: the state, or the one before it, cannot be written.
        """
        self.wait()
        if background and self._within:
            copied = self._copy({key: state[key] for key in ("module", "optimizer")})
            if copied is not None:
                self._start(self._write, {**state, **copied}, folder, best, keep)
                return
        save_checkpoint(state, folder, best=best, keep=keep)

    def wait(self) -> None:
        """Waits until what was handed over is on the disk.

        Raises:
            DiskError: it cannot be written.
        """
        self._join()
        self.check()

    def check(self) -> None:
        """Raises what has gone wrong with what was handed over; each error once.

        Raises:
            DiskError: it cannot be written.
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
        except _GivenUpError:
            pass
        except BaseException as error:  # whatever it is, the main thread has to hear of it
            self._error = error

    def _copy(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """A copy of the state; None where there is no memory for one, and it has to be saved while training waits."""
        self._memory = self._memory or _Memory()
        try:
            return self._memory.copy(state)
        except (MemoryError, RuntimeError):  # the latter is how PyTorch says it
            self._memory = _Memory()
            return None

    def _write(self, state: Mapping[str, Any], folder: Path, best: bool, keep: int) -> None:
        save_checkpoint(state, folder, best=best, keep=keep, between=self._go_on)

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise _GivenUpError

    def _join(self) -> None:
        # With a time: on Windows no signal is answered in a wait without one.
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_SECONDS_BETWEEN_LOOKS)
        self._thread = None


class _Memory:
    """Where copies of a state go. It is kept from one to the next: the system takes long to give so much memory."""

    def __init__(self) -> None:
        self._kept: dict[int, list[torch.UntypedStorage]] = {}

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy on the CPU, down to the last list; it holds until the next one is made."""
        free = {size: list(storages) for size, storages in self._kept.items()}
        copies: dict[int, torch.UntypedStorage] = {}  # tensors that share memory go on sharing it
        devices = set()

        def copied(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                source = value.untyped_storage()
                if source.data_ptr() not in copies:
                    copies[source.data_ptr()] = self._take(source, free).copy_(source, non_blocking=True)
                    devices.add(source.device)
                place = (copies[source.data_ptr()], value.storage_offset(), value.size(), value.stride())
                return torch.empty(0, dtype=value.dtype).set_(*place)
            if isinstance(value, dict):
                made = copy.copy(value)  # of the same kind: the weights come in an OrderedDict with notes of versions
                made.update((key, copied(item)) for key, item in value.items())
                return made
            if isinstance(value, (list, tuple)):
                return type(value)(map(copied, value))
            return value

        whole = copied(state)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return whole

    def _take(self, source: torch.UntypedStorage, free: dict[int, list[torch.UntypedStorage]]) -> torch.UntypedStorage:
        size = source.nbytes()
        if not free.get(size):
            pinned = source.device.type == "cuda"
            made = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
            self._kept.setdefault(size, []).append(made)
            return made
        return free[size].pop()
