"""Losses, gradients and weights that are NaN or infinite: found before they do harm."""

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
from dbbd_cli.engine.state import TrainState
from dbbd_cli.runs.folder import RunLog

SMALLEST_SCALE = 1e-4
"""Loss scaling (fp16) that has found no finite gradient down to here, 30 steps, will find none."""
LossOfBatch = tuple[list[str], torch.Tensor]
"""The names of a batch's samples, and its loss."""


def all_finite(batches: Sequence[LossOfBatch], norm: torch.Tensor, scaler: torch.amp.GradScaler) -> torch.Tensor:
    """Whether a step may be made with these losses and this norm of the gradient: `()`, on the device."""
    # With loss scaling, infinite gradients are part of finding the scale: the scaler leaves such a step out itself.
    values = torch.stack([*(loss for _, loss in batches), *([] if scaler.is_enabled() else [norm])])
    return torch.isfinite(values).all()


def step_if_finite(finite: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Makes the step of the optimizer where that is wanted, which a fused one finds out on the device.

    With loss scaling the device is waited for: the scaler knows of gradients only, not of the loss.

    Args:
        finite: `()`, whether all that the step comes from is finite.
        optimizer: makes the step.
        scaler: leaves out steps whose gradients are not finite, if it is enabled.
    """
    if scaler.is_enabled():
        if finite:
            scaler.step(optimizer)
    elif optimizer.defaults.get("fused"):
        # As a scaler tells it, so that the program need not wait for a GPU.
        told: Any = optimizer
        told.grad_scale, told.found_inf = None, (~finite).float()
        optimizer.step()
        del told.grad_scale, told.found_inf
    elif finite:
        optimizer.step()


@dataclass(frozen=True)
class _Step:
    """A step of which nobody has read yet whether it was made."""

    epoch: int
    number: int
    batches: list[LossOfBatch]
    finite: torch.Tensor
    rate: float

    def error(self, folder: Path) -> NotFiniteError:
        """What is not finite, with the names of the samples that it came from."""
        bad = [(names, loss) for names, loss in self.batches if not torch.isfinite(loss)]
        what = f"loss ({bad[0][1].item()})" if bad else "gradient"
        return NotFiniteError(
            f"epoch {self.epoch}, step {self.number}: the {what} is not finite; the weights were not updated",
            details=["the batch:", *[name for names, _ in bad or self.batches for name in names][:64]],
            hint=f"look at these samples, lower training.learning_rate (now {self.rate:g}), or leave such steps out "
            f"with --set training.on_nonfinite=skip. {last_good(folder)}",
        )


class Steps:
    """The steps since the last look, and what is to happen where one could not be made.

    Args:
        state: counts the steps that are left out.
        training: whether they may be, and how many.
        folder: the run folder.
        log: is told of them.
        progress: is told of them.
    """

    def __init__(
        self, state: TrainState, training: TrainingConfig, folder: Path, log: RunLog, progress: Progress
    ) -> None:
        self.state = state
        self.training = training
        self.folder = folder
        self.log = log
        self.progress = progress
        self._unread: list[_Step] = []
        self._last: _Step | None = None

    def add(self, batches: list[LossOfBatch], finite: torch.Tensor, rate: float) -> None:
        """Adds the step that `state` counted last; nothing is read."""
        self._last = _Step(self.state.epoch, self.state.step, batches, finite, rate)
        self._unread.append(self._last)

    def read(self) -> bool:
        """Looks whether the steps were made; returns whether the last of them was.

        Raises:
            NotFiniteError: one was not, and steps may not be left out, or no more of them.
        """
        if not self._unread:
            return True
        steps, self._unread = self._unread, []
        made = torch.stack([step.finite for step in steps]).tolist()
        for step in (step for step, finite in zip(steps, made, strict=True) if not finite):
            self._leave_out(step)
        return bool(made[-1])

    def error_of_last(self) -> NotFiniteError:
        """The error that the last step is not finite."""
        assert self._last is not None
        return self._last.error(self.folder)

    def _leave_out(self, step: _Step) -> None:
        error, most = step.error(self.folder), self.training.max_skipped_steps
        if self.training.on_nonfinite != "skip" or self.state.skipped_steps >= most:
            raise error
        self.state.skipped_steps += 1
        how = f"left out ({self.state.skipped_steps} of at most {most})"
        text = error.message.replace("the weights were not updated", how)
        self.progress.warn(text)
        self.log.text("; ".join([text, *error.details]))


def check_weights(weights: Mapping[str, torch.Tensor], state: TrainState, folder: Path) -> None:
    """Raises where weights are not finite, so that no checkpoint ever holds such ones.

    Raises:
        NotFiniteError: names the first of them.
    """
    floating = {name: value for name, value in weights.items() if value.is_floating_point()}
    # A sum reads them once and makes nothing. Over NaN or infinity it is never finite; over large values it may not be.
    if bool(torch.isfinite(torch.stack([value.sum() for value in floating.values()])).all()):
        return
    name = next((name for name, value in floating.items() if not bool(torch.isfinite(value).all())), None)
    if name is None:
        return
    raise NotFiniteError(
        f"epoch {state.epoch}, step {state.step}: {name} holds values that are not finite; nothing was saved",
        hint=f"lower training.learning_rate. {last_good(folder)}",
    )


def last_good(folder: Path) -> str:
    """Where a run can go on from, in words."""
    if not (folder / NEWEST).exists():
        return "No checkpoint had been saved yet"
    return f"The last good state goes on with: {resume_command(folder)}"


class BufferSnapshot:
    """What a forward pass changes beside the loss: the running statistics of batch normalization.

    Args:
        module: its buffers are remembered as they are now.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore_unless(self, finite: torch.Tensor) -> None:
        """Puts them back where `finite` `()` is false, so that a step that is left out leaves nothing behind."""
        with torch.no_grad():
            for buffer, before in self._before:
                buffer.copy_(torch.where(finite, buffer, before))
