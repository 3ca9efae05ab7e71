"""Detect losses, gradients and weights that are NaN or infinite before they do harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.config.sections import TrainingConfig
from dbbd_cli.core.errors import NotFiniteError
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.progress import Progress
from dbbd_cli.engine.checkpoint.files import NEWEST
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.sharding import own_part
from dbbd_cli.engine.state import TrainState
from dbbd_cli.runs.log import RunLog

SMALLEST_SCALE = 1e-4
"""If loss scaling (fp16) has not found a finite gradient down to this scale, which takes 30 steps, it never will."""
_MOST_NAMES = 64


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. Its tensors stay on the device: reading them would wait for the GPU.

    Attributes:
        epoch: epoch of the step, from 1.
        step: number of the step, from 1.
        names: the samples of each batch.
        losses: mean loss of each batch, `()`.
        grad_norm: norm of the gradient before clipping, `()`.
        finite: `()`, whether losses and gradient were finite; otherwise the step changed nothing.
        learning_rate: learning rate of the step.
    """

    epoch: int
    step: int
    names: list[list[str]]
    losses: list[torch.Tensor]
    grad_norm: torch.Tensor
    finite: torch.Tensor
    learning_rate: float

    @property
    def num_samples(self) -> int:
        """Samples in all batches."""
        return sum(map(len, self.names))

    def error(self, folder: Path, processes: Processes = ALONE) -> NotFiniteError:
        """The error that names what is not finite, and the samples of the batches that caused it, in all processes."""
        bad = [
            (str(loss.item()), names[:_MOST_NAMES])
            for names, loss in zip(self.names, self.losses, strict=True)
            if not torch.isfinite(loss)
        ]
        bad = [one for found in processes.everyone(bad) for one in found]
        if bad:
            what, suspects = f"loss ({bad[0][0]})", [name for _, names in bad for name in names]
        else:
            own = [name for names in self.names for name in names][:_MOST_NAMES]
            what, suspects = "gradient", [name for names in processes.everyone(own) for name in names]
        return NotFiniteError(
            f"epoch {self.epoch}, step {self.step}: the {what} is not finite; the weights were not updated",
            details=["the batch:", *suspects[:_MOST_NAMES]],
            hint=f"look at these samples, lower training.learning_rate (now {self.learning_rate:g}), or skip such "
            f"steps with --set training.on_nonfinite=skip; {last_good(folder)}",
            all_have_it=True,
        )


def all_finite(losses: Sequence[torch.Tensor], grad_norm: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor:
    """Whether a step can be taken with these losses and this gradient norm: `()`, on the device."""
    # With loss scaling, infinite gradients are part of finding the scale: the scaler skips such a step itself.
    return torch.isfinite(torch.stack([*losses, *([] if scaler.is_enabled() else [grad_norm])])).all()


def step_if_finite(finite: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Take the optimizer step if `finite` `()` is true; a fused optimizer decides on the device.

    With loss scaling, the program waits for the device: the scaler checks gradients only, not the loss.
    """
    if scaler.is_enabled():
        if finite:
            scaler.step(optimizer)
    elif optimizer.defaults.get("fused"):
        # The attributes through which a GradScaler controls a fused optimizer.
        fused: Any = optimizer
        fused.grad_scale, fused.found_inf = None, (~finite).float()
        optimizer.step()
        del fused.grad_scale, fused.found_inf
    elif finite:
        optimizer.step()


class BufferSnapshot:
    """The buffers of a module, such as the running statistics of batch normalization, which a forward pass changes."""

    def __init__(self, module: nn.Module) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore_unless(self, finite: torch.Tensor) -> None:
        """Restore them if `finite` `()` is false, so that a skipped step leaves nothing behind."""
        with torch.no_grad():
            for buffer, before in self._before:
                buffer.copy_(torch.where(finite, buffer, before))


class NonFiniteGuard:
    """Keeps the results of steps until they are read; ends the run if one was not finite, or counts it as skipped.

    Args:
        state: counts the skipped steps.
        training: whether steps may be skipped, and how many.
        folder: the run folder.
        log: receives a line for each skipped step.
        progress: receives a warning for each skipped step.
        processes: those that take the steps together.
    """

    def __init__(
        self,
        state: TrainState,
        training: TrainingConfig,
        folder: Path,
        log: RunLog,
        progress: Progress,
        processes: Processes = ALONE,
    ) -> None:
        self.state = state
        self.training = training
        self.folder = folder
        self.log = log
        self.progress = progress
        self.processes = processes
        self._unread: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        """Add a step; nothing is read."""
        self._unread.append(result)

    def read(self) -> bool:
        """Read the steps since the last call; return whether the last of them was finite.

        Raises:
            NotFiniteError: one was not, and may not be skipped.
        """
        if not self._unread:
            return True
        results, self._unread = self._unread, []
        finite = torch.stack([result.finite for result in results]).tolist()
        for result, is_finite in zip(results, finite, strict=True):
            if not is_finite:
                self._skip(result)
        return bool(finite[-1])

    def _skip(self, result: StepResult) -> None:
        error, most = result.error(self.folder, self.processes), self.training.max_skipped_steps
        if self.training.on_nonfinite != "skip" or self.state.skipped_steps >= most:
            raise error
        self.state.skipped_steps += 1
        text = error.message.replace(
            "the weights were not updated", f"skipped ({self.state.skipped_steps} of at most {most})"
        )
        self.progress.warn(text)
        self.log.text("; ".join([text, *error.details]))


def check_weights(
    weights: Mapping[str, torch.Tensor], state: TrainState, folder: Path, processes: Processes = ALONE
) -> None:
    """Raise if weights are not finite, so that no checkpoint ever holds such weights.

    Args:
        weights: by name; of divided weights, each process checks its part.
        state: where the run is.
        folder: the run folder.
        processes: those that train together, all of which call this.

    Raises:
        NotFiniteError: names the first of them.
    """
    floating = {name: own_part(value) for name, value in weights.items() if value.is_floating_point()}
    # A sum reads each value once and allocates nothing. It is never finite over NaN or infinity, but may overflow.
    if bool(processes.all_of(torch.isfinite(torch.stack([value.sum() for value in floating.values()])).all())):
        return
    own = next((name for name, value in floating.items() if not bool(torch.isfinite(value).all())), None)
    name = next((name for name in processes.everyone(own) if name is not None), None)
    if name is None:
        return
    raise NotFiniteError(
        f"epoch {state.epoch}, step {state.step}: {name} has non-finite values; nothing was saved",
        hint=f"lower training.learning_rate; {last_good(folder)}",
        all_have_it=True,
    )


def last_good(folder: Path) -> str:
    """How to resume from the last checkpoint, in words."""
    if not (folder / NEWEST).exists():
        return "no checkpoint had been saved yet"
    return f"to resume from the last good checkpoint: {resume_command(folder)}"
