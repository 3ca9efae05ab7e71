"""Optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dbbd_cli.config.sections import TrainingConfig
from dbbd_cli.engine.eager_optimizer import eager
from dbbd_cli.engine.sharding import is_sharded, whole


def build_optimizer(
    module: nn.Module, training: TrainingConfig, device: torch.device, lr_factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9, over all parameters; fused into one kernel where PyTorch can.

    Args:
        module: holds the parameters.
        training: the settings.
        device: the device of the parameters.
        lr_factors: start of the names of parameters to the factor of their learning rate; 1 for all others.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = _groups(module, training, lr_factors) if lr_factors else parameters
    fused = device.type in ("cpu", "cuda")
    if training.optimizer == "sgd":
        fused = fused and not is_sharded(module)  # PyTorch has no such kernel
        sgd = eager(torch.optim.SGD)(
            groups, lr=training.learning_rate, momentum=0.9, weight_decay=training.weight_decay, fused=fused
        )
        # Zero from the start: the device may skip the first step without the program knowing.
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return eager(torch.optim.AdamW)(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=fused)


def _groups(module: nn.Module, training: TrainingConfig, lr_factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """A group of parameters for each factor of the learning rate, that for the factor 1 first."""
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = next((factor for start, factor in lr_factors.items() if name.startswith(start)), 1.0)
            by_factor.setdefault(factor, []).append(parameter)
    return [
        {"params": parameters, "lr": training.learning_rate * factor, "lr_factor": factor}
        for factor, parameters in by_factor.items()
        if parameters
    ]


def load_optimizer(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], training: TrainingConfig, saved_training: Mapping[str, Any]
) -> None:
    """Load the optimizer's state, but keep the settings of the current configuration.

    Args:
        optimizer: receives the state.
        saved: the state, from a checkpoint.
        training: the current configuration.
        saved_training: the configuration of the checkpoint.

    Raises:
        ValueError: the state is invalid.
    """
    kept = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # Fused kernels take values in the order in which they are in memory; a divided network has another one.
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        if type(group["lr"]) is not float:
            raise ValueError("its learning rate is not a number")
        group.update(settings)
        if training.learning_rate != saved_training["learning_rate"]:
            # In proportion, so that earlier reductions on a plateau stay in effect.
            group["lr"] *= training.learning_rate / saved_training["learning_rate"]


def clip_gradient(module: nn.Module, largest: float | None, *, is_async: bool) -> torch.Tensor:
    """Scale the gradient of all parameters down to a largest norm.

    Args:
        module: holds the parameters.
        largest: the largest norm; None: no limit.
        is_async: whether comparing the norm would wait for the device; then a gradient within the limit is multiplied
            by 1 rather than left alone.

    Returns:
        The norm before clipping, `()`, on the device.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    limit = math.inf if largest is None else largest
    # The same small number as in PyTorch.
    if is_async or not norm + 1e-6 <= limit:
        nn.utils.clip_grads_with_norm_(module.parameters(), limit, norm)
    return norm


class LearningRate:
    """The learning rate of each optimizer step.

    It rises linearly during warm-up, step by step. After that, cosine and step depend on the epoch alone, and
    reduce_on_plateau on the validation losses. A cosine ends with the run: a run extended by `--epochs` follows the
    longer schedule from there on, unless `scheduler_epochs` sets a length.

    Args:
        optimizer: receives the learning rate.
        training: the schedule.
        steps_per_epoch: optimizer steps in an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, training: TrainingConfig, steps_per_epoch: int) -> None:
        self.optimizer = optimizer
        self.training = training
        self.warmup_steps = round(training.warmup_epochs * steps_per_epoch)
        self.plateau = ReduceLROnPlateau(
            optimizer,
            factor=training.scheduler_factor,
            patience=training.scheduler_patience,
            min_lr=[training.min_lr * group.get("lr_factor", 1.0) for group in optimizer.param_groups],
            threshold=0.0,  # any lower loss counts
        )

    @property
    def value(self) -> float:
        """The current learning rate, without the factor of a group of parameters."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group.get("lr_factor", 1.0))

    def before_step(self, step: int, epoch: int) -> None:
        """Set the rate for optimizer step `step` (from 0) in `epoch` (from 1)."""
        if step < self.warmup_steps:
            self._set(self.training.learning_rate * (step + 1) / self.warmup_steps)
        elif self.training.scheduler != "reduce_on_plateau":
            self._set(self._at(epoch))
        elif step == self.warmup_steps:
            self._set(self.training.learning_rate)

    def after_epoch(self, step: int, val_loss: float) -> None:
        """Update the plateau schedule after an epoch that ended after `step` optimizer steps."""
        if self.training.scheduler == "reduce_on_plateau" and step > self.warmup_steps:
            self.plateau.step(val_loss)

    def _at(self, epoch: int) -> float:
        training = self.training
        done = epoch - 1 - math.ceil(training.warmup_epochs)
        if training.scheduler == "none" or done <= 0:
            return training.learning_rate
        if training.scheduler == "step":
            rate = training.learning_rate * training.scheduler_factor ** (done // training.scheduler_step_size)
            return max(rate, training.min_lr)
        length = max((training.scheduler_epochs or training.epochs) - math.ceil(training.warmup_epochs), 1)
        share = 0.5 * (1.0 + math.cos(math.pi * min(done / length, 1.0)))
        return training.min_lr + (training.learning_rate - training.min_lr) * share

    def _set(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule that is not part of the optimizer's state."""
        return {"best": float(self.plateau.best), "num_bad_epochs": self.plateau.num_bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Settings come from the configuration, which may have changed."""
        if type(state["best"]) is not float or type(state["num_bad_epochs"]) is not int:
            raise ValueError("the state of its learning-rate schedule is invalid")
        self.plateau.best = state["best"]
        self.plateau.num_bad_epochs = state["num_bad_epochs"]
