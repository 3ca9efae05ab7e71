"""The training loop: one visible function, from the first batch to the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.config.schema import Config, to_plain
from dbbd_cli.engine.checkpoint import NEWEST, save_checkpoint
from dbbd_cli.engine.epoch_table import EpochTable
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.engine.optim import LearningRate, build_optimizer
from dbbd_cli.engine.run_folder import RunLog
from dbbd_cli.engine.runtime import Runtime, random_state, restore_random_state
from dbbd_cli.engine.signals import StopRequest
from dbbd_cli.engine.state import Sums, TrainState
from dbbd_cli.errors import NotFiniteError, StoppedError
from dbbd_cli.paths import resume_command
from dbbd_cli.progress import Progress
from dbbd_cli.tasks.base import Task


@dataclass
class Trainer:
    """All that changes while a run trains.

    Args:
        task: data and network.
        config: the resolved configuration.
        runtime: device and precision.
    """

    task: Task
    config: Config
    runtime: Runtime
    state: TrainState = field(default_factory=TrainState)
    optimizer: torch.optim.Optimizer = field(init=False)
    learning_rate: LearningRate = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        module = place(self.task.module, self.runtime)
        training = self.config.training
        self.optimizer = build_optimizer(module, training, self.runtime.device)
        steps = math.ceil(len(self.task.loaders["train"]) / training.accumulate_batches)
        self.learning_rate = LearningRate(self.optimizer, training, steps)
        self.scaler = self.runtime.scaler()

    def to_plain(self) -> dict[str, Any]:
        """The whole state, for a checkpoint."""
        return {
            "module": self.task.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": self.state.to_plain(),
            "random": random_state(),
            "config": to_plain(self.config),
        }

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Puts back what `to_plain` gave, so that the run goes on as if it had never stopped."""
        self.task.module.load_state_dict(checkpoint["module"])
        _load_optimizer(self.optimizer, checkpoint["optimizer"], self.config, checkpoint["config"]["training"])
        self.learning_rate.load_state_dict(checkpoint["learning_rate"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.state = TrainState.from_plain(checkpoint["state"])
        restore_random_state(checkpoint["random"])


def _load_optimizer(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], config: Config, saved_training: Mapping[str, Any]
) -> None:
    """Loads the optimizer's memory, and keeps to what the configuration says now of its settings."""
    kept = [{key: group[key] for key in ("weight_decay", "fused")} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        group.update(settings)
        if config.training.learning_rate != saved_training["learning_rate"]:
            # In proportion, so that reductions on a plateau stay in force.
            group["lr"] *= config.training.learning_rate / saved_training["learning_rate"]


def fit(trainer: Trainer, folder: Path, log: RunLog, progress: Progress, stop: StopRequest) -> None:
    """Trains until the last epoch, or until early stopping; saves after every epoch.

    Args:
        trainer: the run, at its beginning or where a checkpoint left it.
        folder: the run folder.
        log: receives history, events and text.
        progress: shows bars and lines.
        stop: checked after every step and every validation batch.

    Raises:
        NotFiniteError: a loss or gradient is NaN or infinite; the weights were not updated with it.
        StoppedError: a signal asked to stop; everything is saved.
        DiskError: a checkpoint could not be written.
    """
    task, config, runtime, state = trainer.task, trainer.config, trainer.runtime, trainer.state
    module, optimizer, scaler = task.module, trainer.optimizer, trainer.scaler
    training, train_loader = config.training, task.loaders["train"]
    accumulate = training.accumulate_batches
    # Reading a value makes the program wait for a GPU, so there it is done at logging intervals only.
    show_every = 1 if runtime.device.type == "cpu" else config.run.log_every_steps
    table: EpochTable | None = None
    warned = False
    clock = time.perf_counter()

    while state.epoch <= training.epochs and not state.stopped_early:
        module.train()
        title = f"Epoch {state.epoch}/{training.epochs}"
        with progress.phase(f"{title} train", len(train_loader), done=state.batch, noun=task.noun) as bar:
            for raw_batch in train_loader.batches(state.epoch, start=state.batch):
                if state.batch % accumulate == 0:
                    optimizer.zero_grad(set_to_none=True)
                    batches_of_step: list[tuple[Any, torch.Tensor]] = []
                    samples_left = train_loader.num_samples - state.batch * train_loader.batch_size
                    samples_of_step = min(accumulate * train_loader.batch_size, samples_left)
                batch = task.to_device(raw_batch, runtime.device, train=True)
                with runtime.autocast():
                    output = module(*batch)
                # Weighted, so that the gradient of a step is that of the mean over all its samples.
                scaler.scale(output.loss * (output.num_samples / samples_of_step)).backward()
                state.sums.add(output)
                state.batch += 1
                batches_of_step.append((raw_batch, output.loss.detach()))
                if state.batch % accumulate and state.batch < len(train_loader):
                    bar.advance(samples=output.num_samples)
                    continue

                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(module.parameters(), training.clip_grad_norm or math.inf)
                if not _all_finite([loss for _, loss in batches_of_step], norm, scaler):
                    raise _not_finite(trainer, batches_of_step, folder)
                trainer.learning_rate.before_step(state.step, state.epoch)
                scaler.step(optimizer)
                scaler.update()
                state.step += 1

                shown = {}
                if state.step % show_every == 0:
                    state.sums.flush()
                    shown = _headline(task, task.summarise(state.sums.values, state.sums.num_samples))
                bar.advance(samples=output.num_samples, **shown)  # type: ignore[arg-type]
                if state.step % config.run.log_every_steps == 0:
                    metrics = _log_step(log, state, task, trainer.learning_rate.value, float(norm))
                    warned = warned or _warn(task.warning(metrics), log, progress)
                clock = _count_time(state, clock)
                every = config.checkpoint.every_steps
                if stop and state.batch < len(train_loader):
                    _save_and_stop(trainer, folder, log, stop)
                if every and state.step % every == 0 and state.batch < len(train_loader):
                    save_checkpoint(trainer.to_plain(), folder, best=False)

        train_metrics = _summary(task, state.sums)
        with progress.phase(f"{title} validate", len(task.loaders["val"]), noun=task.noun) as bar:
            sums = run_split(task, task.loaders["val"], runtime, bar, stop)
        clock = _count_time(state, clock)
        if stop:
            _save_and_stop(trainer, folder, log, stop)
        val_metrics = _summary(task, sums)
        value = val_metrics[task.monitor]
        if not math.isfinite(value):
            raise NotFiniteError(
                f"epoch {state.epoch}: the validation {task.monitor} is {value}; the epoch was not saved",
                hint=f"lower training.learning_rate. {_last_good(folder)}",
            )
        used_rate = trainer.learning_rate.value
        trainer.learning_rate.after_epoch(state.step, value)
        best = _judge(state, value, training.early_stopping_patience, training.early_stopping_min_delta)
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": state.epoch,
            "step": state.step,
            "learning_rate": used_rate,
            "train": train_metrics,
            "val": val_metrics,
            "best": best,
        }
        state.history.append(row)
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, Sums()
        seconds, state.seconds_at_epoch = state.seconds - state.seconds_at_epoch, state.seconds
        _log_epoch(log, row, seconds)
        save_best = best and config.checkpoint.save_best
        save_checkpoint(trainer.to_plain(), folder, best=save_best)
        if table is None:
            table = EpochTable(training.epochs, task.headline)
            _say(table.heading(), log, progress)
        note = "best saved" if save_best else "best" if best else ""
        line = table.row(row["epoch"], train_metrics, val_metrics, learning_rate=used_rate, seconds=seconds, note=note)
        _say(line, log, progress)
        warned = warned or _warn(task.warning(val_metrics), log, progress)
        if state.stopped_early:
            _say(f"Early stopping: no improvement for {state.patience_epochs} epochs", log, progress)


def _summary(task: Task, sums: Sums) -> dict[str, float]:
    sums.flush()
    return task.summarise(sums.values, sums.num_samples)


def _all_finite(losses: Sequence[torch.Tensor], norm: torch.Tensor, scaler: torch.amp.GradScaler) -> bool:
    # With loss scaling, infinite gradients are part of finding the scale: the scaler leaves such a step out itself.
    values = torch.stack([*losses, *([] if scaler.is_enabled() else [norm])])
    return bool(torch.isfinite(values).all())


def _not_finite(trainer: Trainer, batches: Sequence[tuple[Any, torch.Tensor]], folder: Path) -> NotFiniteError:
    state = trainer.state
    bad = [(batch, loss) for batch, loss in batches if not torch.isfinite(loss)]
    what = f"loss ({bad[0][1].item()})" if bad else "gradient"
    names = [name for batch, _ in bad or batches for name in trainer.task.names(batch, "train")]
    return NotFiniteError(
        f"epoch {state.epoch}, step {state.step + 1}: the {what} is not finite; the weights were not updated",
        details=["the batch:", *names[:64]],
        hint=f"look at these samples, or lower training.learning_rate (now {trainer.learning_rate.value:g}). "
        + _last_good(folder),
    )


def _last_good(folder: Path) -> str:
    if not (folder / NEWEST).exists():
        return "No checkpoint had been saved yet"
    return f"The last good state goes on with: {resume_command(folder)}"


def _judge(state: TrainState, value: float, patience: int | None, min_delta: float) -> bool:
    """Updates the best value and early stopping; returns whether this epoch is the best so far."""
    if value < state.patience_value - min_delta:
        state.patience_value, state.patience_epochs = value, 0
    else:
        state.patience_epochs += 1
    state.stopped_early = patience is not None and state.patience_epochs >= patience
    if value < state.best_value:
        state.best_value, state.best_epoch = value, state.epoch
        return True
    return False


def _count_time(state: TrainState, since: float) -> float:
    now = time.perf_counter()
    state.seconds += now - since
    return now


def _log_step(log: RunLog, state: TrainState, task: Task, rate: float, norm: float) -> dict[str, float]:
    metrics = _summary(task, state.sums)
    log.entry(
        {"kind": "step", "epoch": state.epoch, "step": state.step, "learning_rate": rate, "grad_norm": norm, **metrics}
    )
    log.scalars(state.step, {"learning_rate": rate, "train/grad_norm": norm})
    return metrics


def _save_and_stop(trainer: Trainer, folder: Path, log: RunLog, stop: StopRequest) -> None:
    assert stop.signal_number is not None
    save_checkpoint(trainer.to_plain(), folder, best=False)
    state = trainer.state
    message = f"stopped in epoch {state.epoch} after step {state.step}; everything is saved"
    log.text(message)
    raise StoppedError(message, signal_number=stop.signal_number, hint=f"continue with: {resume_command(folder)}")


def _log_epoch(log: RunLog, row: Mapping[str, Any], seconds: float) -> None:
    log.entry(row)
    for split in ("train", "val"):
        log.scalars(row["step"], {f"{split}/{name}": value for name, value in row[split].items()})
    log.scalars(row["step"], {"learning_rate": row["learning_rate"], "seconds_per_epoch": seconds})


def _headline(task: Task, metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in task.headline}


def _warn(text: str, log: RunLog, progress: Progress) -> bool:
    """Warns, unless there is nothing to say; returns whether there was."""
    if text:
        progress.warn(text)
        log.text(text)
    return bool(text)


def _say(text: str, log: RunLog, progress: Progress) -> None:
    progress.line(text)
    log.text(text)
