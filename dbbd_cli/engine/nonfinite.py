"""Losses, gradients and weights that are NaN or infinite: found before they do harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.engine.checkpoint import NEWEST
from dbbd_cli.engine.state import TrainState
from dbbd_cli.errors import NotFiniteError
from dbbd_cli.paths import resume_command
from dbbd_cli.tasks.base import Task

SMALLEST_SCALE = 1e-4
"""Loss scaling (fp16) that has found no finite gradient down to here, 30 steps, will find none."""
LossOfBatch = tuple[Any, torch.Tensor]
"""A batch as it came from the loader, and its loss."""


def all_finite(batches: Sequence[LossOfBatch], norm: torch.Tensor, scaler: torch.amp.GradScaler) -> bool:
    """Whether a step may be made with these losses and this norm of the gradient."""
    # With loss scaling, infinite gradients are part of finding the scale: the scaler leaves such a step out itself.
    values = torch.stack([*(loss for _, loss in batches), *([] if scaler.is_enabled() else [norm])])
    return bool(torch.isfinite(values).all())


def not_finite(
    task: Task, state: TrainState, batches: Sequence[LossOfBatch], rate: float, folder: Path
) -> NotFiniteError:
    """What is not finite, with the names of the samples that it came from.

    Args:
        task: knows the names.
        state: where the run is.
        batches: those of the step.
        rate: the learning rate.
        folder: the run folder.
    """
    bad = [(batch, loss) for batch, loss in batches if not torch.isfinite(loss)]
    what = f"loss ({bad[0][1].item()})" if bad else "gradient"
    names = [name for batch, _ in bad or batches for name in task.names(batch, "train")]
    return NotFiniteError(
        f"epoch {state.epoch}, step {state.step + 1}: the {what} is not finite; the weights were not updated",
        details=["the batch:", *names[:64]],
        hint=f"look at these samples, lower training.learning_rate (now {rate:g}), or leave such steps out with "
        f"--set training.on_nonfinite=skip. {last_good(folder)}",
    )


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


class Buffers:
    """What a forward pass changes beside the loss: the running statistics of batch normalisation.

    Args:
        module: its buffers are remembered as they are now.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore(self) -> None:
        """Puts them back, so that a step that is left out leaves nothing behind."""
        with torch.no_grad():
            for buffer, before in self._before:
                buffer.copy_(before)
