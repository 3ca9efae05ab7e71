"""The training loop: one visible function, from the first batch to the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import NotFiniteError, StoppedError
from dbbd_cli.core.metrics import cost
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.core.text import counted
from dbbd_cli.engine.checkpoint.replay_check import make_replay_check
from dbbd_cli.engine.checkpoint.writer import CheckpointWriter
from dbbd_cli.engine.epoch_table import EpochTable
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.engine.nonfinite import (
    SMALLEST_SCALE,
    BufferSnapshot,
    LossOfBatch,
    Steps,
    all_finite,
    check_weights,
    last_good,
    step_if_finite,
)
from dbbd_cli.engine.optimizer import LearningRate, build_optimizer, clip_gradient, load_optimizer
from dbbd_cli.engine.runtime import Runtime, random_state, restore_random_state
from dbbd_cli.engine.state import Sums, TrainState
from dbbd_cli.engine.workload import Workload
from dbbd_cli.runs.folder import RunLog


@dataclass
class Trainer:
    """All that changes while a run trains.

    Args:
        workload: data and network.
        config: the resolved configuration.
        runtime: device and precision.
        splits_sha256: digest of the list of samples and splits, which a checkpoint is bound to.
    """

    workload: Workload
    config: TaskConfig
    runtime: Runtime
    splits_sha256: str = ""
    state: TrainState = field(default_factory=TrainState)
    optimizer: torch.optim.Optimizer = field(init=False)
    learning_rate: LearningRate = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    writer: CheckpointWriter = field(init=False, default_factory=CheckpointWriter)
    steps: Steps | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        module = place(self.workload.module, self.runtime)
        training = self.config.training
        self.optimizer = build_optimizer(module, training, self.runtime.device)
        steps = math.ceil(len(self.workload.loaders["train"]) / training.accumulate_batches)
        self.learning_rate = LearningRate(self.optimizer, training, steps)
        self.scaler = self.runtime.scaler()

    def to_plain(self, *, proven: bool = True) -> dict[str, Any]:
        """The whole state, for a checkpoint; with the proof of the next batch, unless that is not to be made."""
        return {
            "module": self.workload.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": self.state.to_plain(),
            "random": random_state(),
            "config": to_plain(self.config),
            "runtime": asdict(self.runtime.record()),
            "splits": self.splits_sha256,
            "proof": make_replay_check(self.workload, self.runtime, self.state) if proven else None,
        }

    def save(
        self,
        folder: Path,
        log: RunLog | None = None,
        *,
        best: bool = False,
        proven: bool = True,
        background: bool = False,
    ) -> None:
        """Writes a checkpoint, after what is logged up to here; `background`: in a background thread, if `writer` can.

        Raises:
            NotFiniteError: the weights, or a step since the last look, are not finite: nothing is written.
            DiskError: it cannot be written; the checkpoints that were there are still there.
        """
        if self.steps is not None:
            self.steps.read()  # no checkpoint knows of steps that nobody has looked at
        state = self.to_plain(proven=proven)
        check_weights(state["module"], self.state, folder)
        if log is not None:
            log.sync()
        self.writer.save(state, folder, best=best, keep=self.config.checkpoint.keep, background=background)

    @property
    def at_step_boundary(self) -> bool:
        """Whether the state is one that can be gone on from, rather than in the middle of accumulating gradients."""
        batch, whole = self.state.batch, len(self.workload.loaders["train"])
        return batch % self.config.training.accumulate_batches == 0 or batch == whole

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Puts back what `to_plain` gave, so that the run goes on as if it had never stopped."""
        self.workload.module.load_state_dict(checkpoint["module"])
        load_optimizer(self.optimizer, checkpoint["optimizer"], self.config.training, checkpoint["config"]["training"])
        self.learning_rate.load_state_dict(checkpoint["learning_rate"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.state = TrainState.from_plain(checkpoint["state"])
        restore_random_state(checkpoint["random"])


def fit(trainer: Trainer, folder: Path, log: RunLog, progress: Progress, stop: StopRequest) -> None:
    """Trains until the last epoch, or until early stopping; saves after every epoch, within `trainer.writer` beside it.

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
    workload, config, runtime, state = trainer.workload, trainer.config, trainer.runtime, trainer.state
    module, optimizer, scaler = workload.module, trainer.optimizer, trainer.scaler
    training, train_loader = config.training, workload.loaders["train"]
    accumulate = training.accumulate_batches
    # Reading a value makes the program wait for a GPU, so there it is done at logging intervals only.
    show_every = config.run.log_every_steps if runtime.is_async else 1
    table: EpochTable | None = None
    warned = False
    buffers: BufferSnapshot | None = None
    steps = trainer.steps = Steps(state, training, folder, log, progress)
    clock = time.perf_counter()

    while state.epoch <= training.epochs and not state.stopped_early:
        module.train()
        title = f"Epoch {state.epoch}/{training.epochs}"
        with progress.phase(
            f"{title} train", len(train_loader), done=state.batch, sample_unit=workload.sample_unit
        ) as bar:
            batches = train_loader.batches(state.epoch, start=state.batch)
            for raw_batch in stop.interruptible(batches, lambda: trainer.at_step_boundary):
                if state.batch % accumulate == 0:
                    optimizer.zero_grad(set_to_none=True)
                    batches_of_step: list[LossOfBatch] = []
                    buffers = BufferSnapshot(module) if training.on_nonfinite == "skip" else None
                    samples_left = train_loader.num_samples - state.batch * train_loader.batch_size
                    samples_of_step = min(accumulate * train_loader.batch_size, samples_left)
                batch = workload.to_device(raw_batch, runtime.device, train=True)
                with runtime.autocast():
                    output = module(*batch)
                # Weighted, so that the gradient of a step is that of the mean over all its samples.
                scaler.scale(output.loss * (output.num_samples / samples_of_step)).backward()
                state.sums.add(output)
                state.batch += 1
                batches_of_step.append((workload.names(raw_batch, "train"), output.loss.detach()))
                if state.batch % accumulate and state.batch < len(train_loader):
                    bar.advance(samples=output.num_samples)
                    continue

                scaler.unscale_(optimizer)
                norm = clip_gradient(module, training.clip_grad_norm, is_async=runtime.is_async)
                trainer.learning_rate.before_step(state.step, state.epoch)
                # Steps with values that are not finite change nothing; whether there were any is read later.
                finite = all_finite(batches_of_step, norm, scaler)
                step_if_finite(finite, optimizer, scaler)
                scaler.update()
                state.sums.count_where(finite, len(batches_of_step))
                if buffers is not None:
                    buffers.restore_unless(finite)
                state.step += 1
                steps.add(batches_of_step, finite, trainer.learning_rate.value)

                shown = {}
                made = steps.read() if state.step % show_every == 0 else False
                if made:
                    state.sums.flush()
                    so_far = workload.summarize(state.sums.values, state.sums.num_samples)
                    shown = {name: so_far[name] for name in workload.progress_metrics}
                bar.advance(samples=output.num_samples, **shown)  # type: ignore[arg-type]
                if made and state.step % config.run.log_every_steps == 0:
                    if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
                        raise steps.error_of_last()
                    metrics = _log_step(log, state, workload, trainer.learning_rate.value, float(norm))
                    warned = warned or _warn(workload.warning(metrics), log, progress)
                clock = state.count_time(clock)
                every = config.checkpoint.every_steps
                trainer.writer.check()
                if every or state.epoch < training.epochs:
                    trainer.writer.reserve(module, optimizer)
                if stop and state.batch < len(train_loader):
                    _save_and_stop(trainer, folder, log, stop)
                if every and state.step % every == 0 and state.batch < len(train_loader):
                    trainer.save(folder, log, background=True)

        if stop and state.batch < len(train_loader):
            _save_and_stop(trainer, folder, log, stop)  # asked for while a batch was waited for
        steps.read()
        train_metrics = _summary(workload, state.sums)
        if table is None:
            trainer.writer.wait()  # what loads validation batches may be forked now, but not beside a thread of ours
        with progress.phase(f"{title} validate", len(workload.loaders["val"]), sample_unit=workload.sample_unit) as bar:
            sums = run_split(workload, workload.loaders["val"], runtime, bar, stop)
        clock = state.count_time(clock)
        if stop:
            _save_and_stop(trainer, folder, log, stop)
        val_metrics = _summary(workload, sums)
        for name in ("loss", workload.monitor):
            if not math.isfinite(val_metrics[name]):
                raise NotFiniteError(
                    f"epoch {state.epoch}: the validation {name} is {val_metrics[name]}; the epoch was not saved",
                    hint=f"lower training.learning_rate. {last_good(folder)}",
                )
        used_rate = trainer.learning_rate.value
        trainer.learning_rate.after_epoch(state.step, val_metrics["loss"])
        value = cost(workload.monitor, val_metrics[workload.monitor])
        best = state.judge(value, training.early_stopping_patience, training.early_stopping_min_delta)
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
        log.epoch(row, seconds)
        if state.step % config.run.log_every_steps:  # otherwise it has been logged
            log.scalars(state.step, {"learning_rate": used_rate})
        save_best = best and config.checkpoint.save_best
        trainer.save(folder, log, best=save_best, background=state.epoch <= training.epochs and not state.stopped_early)
        if table is None:
            table = EpochTable(training.epochs, workload.progress_metrics, workload.monitor)
            _say(table.heading(), log, progress)
        note = "best saved" if save_best else "best" if best else ""
        line = table.row(row["epoch"], train_metrics, val_metrics, learning_rate=used_rate, seconds=seconds, note=note)
        _say(line, log, progress)
        warned = warned or _warn(workload.warning(val_metrics), log, progress)
        if state.stopped_early:
            patience = counted(state.patience_epochs, "epoch")
            _say(f"Early stopping: no better validation {workload.monitor} for {patience}", log, progress)


def _summary(workload: Workload, sums: Sums) -> dict[str, float]:
    sums.flush()
    if not sums.num_samples:
        raise NotFiniteError(
            "no step of the epoch had a finite loss and gradient", hint="look at the samples named above"
        )
    return workload.summarize(sums.values, sums.num_samples)


def _log_step(log: RunLog, state: TrainState, workload: Workload, rate: float, norm: float) -> dict[str, float]:
    metrics = _summary(workload, state.sums)
    about = {"kind": "step", "epoch": state.epoch, "step": state.step, "learning_rate": rate, "grad_norm": norm}
    log.logged_step({**about, **metrics})
    return metrics


def _save_and_stop(trainer: Trainer, folder: Path, log: RunLog, stop: StopRequest) -> None:
    assert stop.signal_number is not None
    trainer.save(folder, log)
    state = trainer.state
    steps = math.ceil(state.batch / trainer.config.training.accumulate_batches)
    when = f"after step {steps:,}" if steps else "before the first step"
    message = f"Stopped {when} of epoch {state.epoch}; everything is saved."
    log.text(message)
    raise StoppedError(message, signal_number=stop.signal_number, hint=f"continue with: {resume_command(folder)}")


def _warn(text: str, log: RunLog, progress: Progress) -> bool:
    """Warns, unless there is nothing to say; returns whether there was."""
    if text:
        progress.warn(text)
        log.text(text)
    return bool(text)


def _say(text: str, log: RunLog, progress: Progress) -> None:
    progress.line(text)
    log.text(text)
