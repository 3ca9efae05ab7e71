"""Records training steps: every operation they ask PyTorch for, and those that would wait for a GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import dbbd_cli
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.runtime import Runtime, choose_runtime, seed_everything
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.runs.log import RunLog
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload

PACKAGE = Path(dbbd_cli.__file__).parent

# On a GPU the size of the result, the choice of the path or the check for errors needs a value from the device.
_WAITING = {
    "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount", "histc",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip
_READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}


class LikeGpu(Runtime):
    """The CPU, treated as a device whose kernels run asynchronously."""

    @property
    def is_async(self) -> bool:
        return True


@dataclass(frozen=True)
class Operation:
    """An operation, why it would wait for a GPU, and where it was called; both empty if it would not wait."""

    name: str
    waits: str
    place: str


class _Dispatched(TorchDispatchMode):
    """Records everything that reaches PyTorch's kernels, from forward, backward and optimizer alike."""

    def __init__(self, operations: list[Operation], host: set[int]) -> None:
        super().__init__()
        self.operations = operations
        self.host = host

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        why = _why_it_waits(func, args, kwargs, self.host)
        self.operations.append(Operation(str(func), why, _place() if why else ""))
        return func(*args, **kwargs)


class _Called(TorchFunctionMode):
    """Records what reaches no kernel on the CPU but would on a GPU: copies from and to the host."""

    def __init__(self, operations: list[Operation], host: set[int]) -> None:
        super().__init__()
        self.operations = operations
        self.host = host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        why = ""
        if not Path(sys._getframe(1).f_code.co_filename).is_relative_to(PACKAGE):
            pass  # PyTorch's own code
        elif func in _READING and args[0].data_ptr() not in self.host:
            why = "reads from the device"
        elif func is torch.tensor and kwargs.get("device") is not None:
            why = "copies from the host, and waits for it"
        elif func is torch.Tensor.to and not kwargs.get("non_blocking", False):
            asked = [kwargs.get("device"), *args[1:2]]
            if any(isinstance(device, (torch.device, str)) for device in asked):
                why = "copies to another device, and waits for it"
        if why:
            self.operations.append(Operation(getattr(func, "__name__", str(func)), why, _place()))
        return func(*args, **kwargs)


def _why_it_waits(func: Any, args: Any, kwargs: Any, host: set[int]) -> str:
    name = func.name().removeprefix("aten::").partition(".")[0]
    first = args[0] if args and isinstance(args[0], torch.Tensor) else None
    if name in _WAITING and not (first is not None and first.data_ptr() in host):
        return "reads from the device"
    if "linalg" in name and name != "linalg_vector_norm":
        return "checks for errors"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "asks for the size of the result"
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        if masks and (name == "index" or args[2].numel() != 1):
            return "asks how much a mask selects"
    return ""


def _place() -> str:
    """The innermost line of the package that the caller was called from."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE).as_posix()}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside"


@dataclass(frozen=True)
class Recording:
    """The operations of each step of an epoch, from the second on, and its batches."""

    steps: list[list[Operation]]
    batches: list[Any]

    @property
    def counts(self) -> list[int]:
        """Operations of each step."""
        return [len(step) for step in self.steps]

    @property
    def waits(self) -> list[str]:
        """Where the second step would wait for a GPU, and why."""
        return [f"{step.place}: {step.name} {step.waits}" for step in self.steps[0] if step.waits]


def record(config: TaskConfig, folder: Path, *, precision: str = "fp32") -> Recording:
    """Train an epoch with the real loop, as on a GPU.

    A recorded step reaches from one optimizer step to the next; the batches are made beforehand.

    Args:
        config: logs no step; has at least 3 batches.
        folder: an empty folder, for the logs.
        precision: fp32 or bf16.
    """
    checked, manifest = prepare_run(config, Silent())
    seed_everything(checked.seed)
    task, _ = build_workload(checked, manifest, splits=("train", "val"), pretrained=False, progress=Silent())
    trainer = Trainer(task, checked, LikeGpu(**vars(choose_runtime("cpu", precision))))
    host: set[int] = set()
    made = list(task.loaders["train"].batches(1))
    for batch in made:  # stays in host memory on any device
        host |= {batch.samples.data_ptr(), batch.epoch.data_ptr()}
    task.loaders["train"].batches = lambda epoch, start=0: iter(made[start:])  # type: ignore[method-assign]

    operations: list[Operation] = []
    ends: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: ends.append(len(operations)))
    with (
        RunLog(folder, step=0, history=[], command=[]) as log,
        _Called(operations, host),
        _Dispatched(operations, host),
    ):
        fit(Run(trainer, folder, log, Silent()))
    assert len(ends) == len(made) >= 3
    return Recording([operations[first:last] for first, last in pairwise(ends)], made)
