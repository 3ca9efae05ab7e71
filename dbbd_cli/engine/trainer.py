"""The training loop: `fit` runs epochs, `train_epoch` runs steps, `train_step` updates the weights once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import DataError, NotFiniteError, StoppedError
from dbbd_cli.core.metrics import cost, metric_words
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.progress import Phase, Progress
from dbbd_cli.core.signals import StopRequest, StopRequestedError
from dbbd_cli.core.text import counted
from dbbd_cli.engine.checkpoint.files import save_checkpoint
from dbbd_cli.engine.checkpoint.replay_check import make_replay_check
from dbbd_cli.engine.checkpoint.shards import divided
from dbbd_cli.engine.checkpoint.writer import CheckpointWriter
from dbbd_cli.engine.epoch_table import EpochTable
from dbbd_cli.engine.inference import place, run_split
from dbbd_cli.engine.nonfinite import (
    SMALLEST_SCALE,
    BufferSnapshot,
    NonFiniteGuard,
    StepResult,
    all_finite,
    check_weights,
    last_good,
    step_if_finite,
)
from dbbd_cli.engine.optimizer import LearningRate, build_optimizer, clip_gradient, load_optimizer
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime, random_state, restore_random_state
from dbbd_cli.engine.sharding import is_sharded
from dbbd_cli.engine.state import Sums, TrainState
from dbbd_cli.engine.workload import Workload
from dbbd_cli.runs.log import RunLog


def fit(run: Run) -> None:
    """Train to the last epoch, or until early stopping, saving after every epoch.

    Raises:
        NotFiniteError: a loss or gradient is NaN or infinite; the weights were not updated with it.
        StoppedError: a signal asked to stop; everything is saved.
        DataError: a batch could not be loaded; everything before it is saved.
        DiskError: a checkpoint could not be written.
    """
    with run.writer:
        try:
            while not run.trainer.finished:
                train_metrics = train_epoch(run)
                val_metrics = validate(run)
                run.end_epoch(train_metrics, val_metrics)
        except StopRequestedError:
            run.save()
            run.trainer.processes.wait()  # a process that ends may end the others
            raise run.stopped() from None
        except DataError:
            run.save(replay_check=False)  # the next batch may be the one that cannot be loaded
            run.trainer.processes.wait()
            raise


def train_epoch(run: Run) -> dict[str, float]:
    """Train what is left of the epoch; return its metrics."""
    run.trainer.module.train()
    with run.phase("train", done=run.trainer.state.batch) as bar:
        for micro_batches in run.optimizer_steps():
            result = train_step(run.trainer, micro_batches)
            run.after_step(result, bar)
    run.guard.read()
    return run.trainer.metrics_of(run.trainer.state.sums)


def train_step(trainer: Trainer, micro_batches: Sequence[Any]) -> StepResult:
    """Take one optimizer step on the mean loss over all samples of its batches.

    If the loss or the gradient is not finite, the step changes nothing. The result stays on the device: reading whether
    they were finite would wait for the GPU.
    """
    workload, runtime, training = trainer.workload, trainer.runtime, trainer.config.training
    state, optimizer, scaler = trainer.state, trainer.optimizer, trainer.scaler
    names = [workload.names(batch, "train") for batch in micro_batches]
    shares = [workload.loaders["train"].share(state.batch + number) for number in range(len(micro_batches))]
    num_samples = sum(share.total for share in shares)
    buffers = BufferSnapshot(trainer.module) if training.on_nonfinite == "skip" else None
    losses = []
    optimizer.zero_grad(set_to_none=True)
    for number, (batch, share) in enumerate(zip(micro_batches, shares, strict=True)):
        inputs = workload.to_device(batch, runtime.device, train=True)
        with trainer.processes.sharing(share, trainer.network, is_last=number == len(shares) - 1):
            with runtime.autocast():
                output = trainer.network(*inputs)
            assert output.num_samples == len(names[number]), "a workload must name every sample of a batch"
            # Gradients are averaged over processes, of which each adds its part of the mean over the batch.
            scaler.scale(output.loss * (trainer.processes.size * share.total / num_samples)).backward()
        state.sums.add(output, share)
        losses.append(output.loss.detach())
    scaler.unscale_(optimizer)
    grad_norm = clip_gradient(trainer.module, training.clip_grad_norm, is_async=runtime.is_async)
    trainer.learning_rate.before_step(state.step, state.epoch)
    finite = trainer.processes.all_of(all_finite(losses, grad_norm, scaler))
    step_if_finite(finite, optimizer, scaler)
    scaler.update()
    if buffers is not None:
        buffers.restore_unless(finite)
    state.sums.count_if(finite, len(losses))
    state.batch += len(micro_batches)
    state.step += 1
    return StepResult(state.epoch, state.step, names, losses, grad_norm, finite, trainer.learning_rate.value)


def validate(run: Run) -> dict[str, float]:
    """Compute loss and metrics on the validation split.

    Raises:
        NotFiniteError: the loss, or the metric that decides which epoch is best, is not finite.
    """
    workload = run.trainer.workload
    run.before_validation()
    with run.phase("validate") as bar:
        try:
            sums = run_split(workload, workload.loaders["val"], run.trainer.runtime, bar, run.stop)
        except DataError as error:
            run.trainer.processes.fail(error)
    run.count_time()
    metrics = run.trainer.metrics_of(sums)
    for name in ("loss", workload.monitor):
        if not math.isfinite(metrics[name]):
            raise NotFiniteError(
                f"epoch {run.trainer.state.epoch}: the validation {metric_words(name)} is {metrics[name]}; the epoch "
                "was not saved",
                hint=f"lower training.learning_rate; {last_good(run.folder)}",
                all_have_it=True,
            )
    return metrics


@dataclass
class Trainer:
    """The training state that a checkpoint stores: weights, optimizer, schedule and position.

    Args:
        workload: data and network.
        config: the resolved configuration.
        runtime: device and precision.
        splits_sha256: digest of the list of samples and splits; a checkpoint resumes only with the same list.
        processes: those that train together.
        batch_size: samples of a batch in all of them together; 0: `training.batch_size` in each.
    """

    workload: Workload
    config: TaskConfig
    runtime: Runtime
    splits_sha256: str = ""
    processes: Processes = ALONE
    batch_size: int = 0
    state: TrainState = field(default_factory=TrainState)
    module: nn.Module = field(init=False)
    network: nn.Module = field(init=False)
    """The module, with gradients that are averaged over processes."""
    optimizer: torch.optim.Optimizer = field(init=False)
    learning_rate: LearningRate = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        training = self.config.training
        self.batch_size = self.batch_size or self.workload.loaders["train"].batch_size * self.processes.size
        for loader in self.workload.loaders.values():
            loader.divide(self.processes.rank, self.processes.size, self.batch_size)
        if self.config.run.shard_model and self.processes.size > 1:
            self.module = self.network = self.processes.sharded(self.workload.module, self.runtime.device)
        else:
            self.module = place(self.workload.module, self.runtime)
            self.network = self.processes.wrapped(self.module)
        self.optimizer = build_optimizer(self.module, training, self.runtime.device, self.workload.lr_factors)
        steps = math.ceil(len(self.workload.loaders["train"]) / training.accumulate_batches)
        self.learning_rate = LearningRate(self.optimizer, training, steps)
        self.scaler = self.runtime.scaler()

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state.epoch > self.config.training.epochs or self.state.stopped_early

    @property
    def epoch_trained(self) -> bool:
        """Whether all batches of the epoch are done, so that only its validation is left."""
        return self.state.batch >= len(self.workload.loaders["train"])

    def metrics_of(self, sums: Sums) -> dict[str, float]:
        """Metrics from sums over the samples of all processes.

        Raises:
            NotFiniteError: every step so far was skipped.
        """
        sums = self.processes.added_up(sums)
        sums.flush()
        if not sums.num_samples:
            raise NotFiniteError(
                "no step of the epoch had a finite loss and gradient",
                hint="look at the samples named above",
                all_have_it=True,
            )
        return self.workload.summarize(sums.values, sums.num_samples)

    @property
    def writers(self) -> Processes:
        """The processes that write checkpoints: all of those among which the network is divided, else the first."""
        return self.processes if is_sharded(self.module) else ALONE

    @property
    def writes(self) -> bool:
        """Whether this process is one of them."""
        return self.processes.is_first or is_sharded(self.module)

    def to_plain(self, *, replay_check: bool = True) -> dict[str, Any]:
        """The full state, for a checkpoint; `replay_check` says whether it includes the loss of the next batch."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": {**self.state.to_plain(), "sums": self.processes.added_up(self.state.sums).plain()},
            "random": random_state(),
            "config": to_plain(self.config),
            "runtime": {**asdict(self.runtime.record()), "batch_size": self.batch_size},
            "splits": self.splits_sha256,
            # The replay check; the key is that of the format.
            "proof": (
                make_replay_check(self.workload, self.runtime, self.state, self.writers)
                if replay_check and self.writes
                else None
            ),
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint, and wait until it is on the disk; all processes take part.

        Args:
            folder: the run folder; that of the first process counts.

        Raises:
            NotFiniteError: the weights are not finite; nothing is written.
            DiskError: it cannot be written; earlier checkpoints are still there.
        """
        state = self.to_plain()
        check_weights(state["module"], self.state, folder, self.processes)
        if self.writes:
            save_checkpoint(state, folder, best=False, keep=self.config.checkpoint.keep, processes=self.writers)

    def load(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Restore what `to_plain` returned, so that training continues as if it had never stopped.

        Args:
            checkpoint: what was saved.
            path: its file.
        """
        if is_sharded(self.module):
            checkpoint = divided(checkpoint, path, self.module, self.optimizer)
        self.module.load_state_dict(checkpoint["module"])
        load_optimizer(self.optimizer, checkpoint["optimizer"], self.config.training, checkpoint["config"]["training"])
        self.learning_rate.load_state_dict(checkpoint["learning_rate"])
        if self.scaler.is_enabled() and checkpoint["scaler"]:
            self.scaler.load_state_dict(checkpoint["scaler"])
        self.state = TrainState.from_plain(checkpoint["state"])
        if not self.processes.is_first:
            self.state.sums = Sums()
        restore_random_state(checkpoint["random"])
        if self.processes.size > 1 and self.runtime.device.type == "cuda" and checkpoint["random"]["cuda"]:
            # All draw the same numbers, each on its own device; the first process has the first one.
            torch.cuda.set_rng_state(checkpoint["random"]["cuda"][0], self.runtime.device)


@dataclass
class Run:
    """A trainer in its run folder: logging, progress, checkpoints and stopping.

    Args:
        trainer: new, or restored from a checkpoint.
        folder: the run folder.
        log: receives history, events and text.
        progress: shows bars and lines.
        stop: checked after every step, and while a batch is awaited.
    """

    trainer: Trainer
    folder: Path
    log: RunLog
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    writer: CheckpointWriter = field(init=False)
    guard: NonFiniteGuard = field(init=False)
    table: EpochTable = field(init=False)

    def __post_init__(self) -> None:
        config, workload = self.trainer.config, self.trainer.workload
        self.guard = NonFiniteGuard(
            self.trainer.state, config.training, self.folder, self.log, self.progress, self.trainer.processes
        )
        # The thread that writes exchanges values while training does.
        self.writer = CheckpointWriter(self.trainer.writers.with_own_connection(config.run.process_timeout))
        self.table = EpochTable(config.training.epochs, workload.progress_metrics, workload.monitor)
        # Reading a value waits for the GPU, or for other processes, so it is then done only at logging intervals.
        waits = self.trainer.runtime.is_async or self.trainer.processes.size > 1
        self._read_every = config.run.log_every_steps if waits else 1
        self._time = time.perf_counter()
        self._validated = False
        self._warned = False

    def phase(self, name: str, done: int = 0) -> AbstractContextManager[Phase]:
        """A progress bar for the training or validation of the epoch."""
        trainer = self.trainer
        title = f"Epoch {trainer.state.epoch}/{trainer.config.training.epochs} {name}"
        total = len(trainer.workload.loaders["train" if name == "train" else "val"])
        return self.progress.phase(title, total, done=done, sample_unit=trainer.workload.sample_unit)

    def optimizer_steps(self) -> Iterator[list[Any]]:
        """Yield the batches of each step left in the epoch, all loaded before the step begins.

        Raises:
            StopRequestedError: a signal arrived while a batch was awaited; no step is under way.
            DataError: a batch could not be loaded, in any process; no step is under way.
        """
        state, training = self.trainer.state, self.trainer.config.training
        batches = self.stop.interruptible(self.trainer.workload.loaders["train"].batches(state.epoch, state.batch))
        while True:
            try:
                micro_batches = list(islice(batches, training.accumulate_batches))
            except DataError as error:
                self.trainer.processes.fail(error)
            if self.trainer.processes.size > 1:  # each has its next batch, so that all can stop here
                self.stop.check()
            if not micro_batches:
                return
            yield micro_batches
            micro_batches.clear()  # frees them before the next ones are loaded

    def after_step(self, result: StepResult, bar: Phase) -> None:
        """Show and log the step, write a checkpoint if one is due, and stop if a signal asked for it.

        Raises:
            NotFiniteError: a step was not finite, and may not be skipped.
            DiskError: the last checkpoint could not be written.
            StopRequestedError: a signal asked to stop.
        """
        trainer, state, config = self.trainer, self.trainer.state, self.trainer.config
        self.guard.add(result)
        metrics = None
        if state.step % self._read_every == 0 and self.guard.read():
            metrics = trainer.metrics_of(state.sums)
        shown = {name: metrics[name] for name in trainer.workload.progress_metrics} if metrics else {}
        bar.advance(len(result.losses), samples=result.num_samples, **shown)
        if metrics and state.step % config.run.log_every_steps == 0:
            self._log_step(result, metrics)
        self.count_time()
        self.writer.check()
        every = config.checkpoint.every_steps
        if trainer.writes and (every or state.epoch < config.training.epochs):
            self.writer.reserve(trainer.module, trainer.optimizer)
        if trainer.processes.size == 1:
            self.stop.check()
        if every and state.step % every == 0 and not trainer.epoch_trained:
            self.save(background=True)

    def _log_step(self, result: StepResult, metrics: Mapping[str, float]) -> None:
        scaler = self.trainer.scaler
        if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
            raise result.error(self.folder, self.trainer.processes)
        self.log.logged_step(
            {
                "kind": "step",
                "epoch": result.epoch,
                "step": result.step,
                "learning_rate": result.learning_rate,
                "grad_norm": float(result.grad_norm),
                **metrics,
            }
        )
        self._warn_once(metrics)

    def before_validation(self) -> None:
        """Finish writing before the first validation, which may fork worker processes: a fork would copy held locks."""
        if not self._validated:
            self.writer.wait()
        self._validated = True

    def end_epoch(self, train_metrics: Mapping[str, float], val_metrics: Mapping[str, float]) -> None:
        """Update the schedule and the best epoch, then log, save and show the epoch."""
        trainer, state, training = self.trainer, self.trainer.state, self.trainer.config.training
        monitor, rate = trainer.workload.monitor, trainer.learning_rate.value
        trainer.learning_rate.after_epoch(state.step, val_metrics["loss"])
        value = cost(monitor, val_metrics[monitor])
        best = state.update_best(value, training.early_stopping_patience, training.early_stopping_min_delta)
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": state.epoch,
            "step": state.step,
            "learning_rate": rate,
            "train": train_metrics,
            "val": val_metrics,
            "best": best,
        }
        seconds = state.end_epoch(row)
        self.log.epoch(row, seconds)
        if state.step % trainer.config.run.log_every_steps:  # otherwise logged with the step
            self.log.scalars(state.step, {"learning_rate": rate})
        save_best = best and trainer.config.checkpoint.save_best
        self.save(best=save_best, background=not trainer.finished)
        self._show_epoch(row, seconds, note="best saved" if save_best else "best" if best else "")

    def _show_epoch(self, row: Mapping[str, Any], seconds: float, *, note: str) -> None:
        for line in self.table.lines(row, seconds=seconds, note=note):
            self._say(line)
        self._warn_once(row["val"])
        state = self.trainer.state
        if state.stopped_early:
            monitor, patience = metric_words(self.trainer.workload.monitor), counted(state.patience_epochs, "epoch")
            self._say(f"Early stopping: no better validation {monitor} for {patience}")

    def save(self, *, best: bool = False, replay_check: bool = True, background: bool = False) -> None:
        """Write a checkpoint, after everything logged so far; with `background`, while training continues.

        Raises:
            NotFiniteError: the weights, or a step that had not been read yet, are not finite; nothing is written.
            DiskError: it cannot be written; earlier checkpoints are still there.
        """
        self.guard.read()
        state = self.trainer.to_plain(replay_check=replay_check)
        check_weights(state["module"], self.trainer.state, self.folder, self.trainer.processes)
        if not self.trainer.writes:
            return
        self.log.sync()
        keep = self.trainer.config.checkpoint.keep
        self.writer.save(state, self.folder, best=best, keep=keep, background=background)

    def stopped(self) -> StoppedError:
        """The error that ends a run that a signal asked to stop."""
        assert self.stop.signal_number is not None
        state = self.trainer.state
        steps = math.ceil(state.batch / self.trainer.config.training.accumulate_batches)
        when = f"after step {steps:,}" if steps else "before the first step"
        message = f"Stopped {when} of epoch {state.epoch}; everything is saved."
        self.log.text(message)
        hint = f"continue with: {resume_command(self.folder)}"
        return StoppedError(message, signal_number=self.stop.signal_number, hint=hint)

    def count_time(self) -> None:
        """Add the time since the last call to the training time."""
        now = time.perf_counter()
        self.trainer.state.seconds += now - self._time
        self._time = now

    def _warn_once(self, metrics: Mapping[str, float]) -> None:
        """Show and log the task's warning about the metrics, once per run."""
        text = "" if self._warned else self.trainer.workload.warning(metrics)
        if text:
            self._warned = True
            self.progress.warn(text)
            self.log.text(text)

    def _say(self, text: str) -> None:
        self.progress.line(text)
        self.log.text(text)
