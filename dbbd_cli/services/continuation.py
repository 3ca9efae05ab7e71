"""What resuming takes once the run folder is locked: everything that needs PyTorch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from dbbd_cli.config.load import Override, dump_config
from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError
from dbbd_cli.core.files import repair_of, write_text
from dbbd_cli.core.metrics import cost, superlative
from dbbd_cli.core.paths import resume_command, shown_path
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.signals import StopRequest, stop_on_signals
from dbbd_cli.core.text import counted
from dbbd_cli.engine.checkpoint.files import (
    BEST,
    NEWEST,
    UnreadableCheckpointError,
    checkpoint_names,
    damaged_path,
    disk_error,
    is_damaged,
    load_checkpoint,
    refuse_unreadable,
    save_checkpoint,
)
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.model.weights import reason_of
from dbbd_cli.runs.folder import CONFIG, ENVIRONMENT, HISTORY, SPLITS, create_run_folder, locked
from dbbd_cli.services.results import TrainResult
from dbbd_cli.services.resume_checks import (
    batches_changed,
    check_proof,
    tell_of_config,
    tell_of_runtime,
    tell_of_schedule,
)
from dbbd_cli.services.session import OpenedRun, build_workload, describe, open_run, show_facts, value_at
from dbbd_cli.services.training import check_room, expected_bytes, is_finished, run_to_the_end
from dbbd_cli.tasks.configs import config_from_mapping


def continue_run(
    target: Path, *, overrides: Sequence[Override], force: bool, progress: Progress, command: Sequence[str]
) -> TrainResult:
    """Continues a run whose folder is locked; see `resume`."""
    run = open_run(target, prefer=NEWEST, overrides=overrides, force=force, progress=progress)
    if not _is_newest(run):
        return _continue_in_new_folder(run, overrides, force, progress, command)
    refuse_unreadable(run.folder, lambda values, origin: config_from_mapping(values, origin=origin))
    tell_of_config(run, overrides, progress)
    return _continue_here(run, run.folder, overrides, force, progress, command)


def _is_newest(run: OpenedRun) -> bool:
    newest = run.folder / NEWEST
    if run.path.name == NEWEST or not newest.exists():
        return True
    try:
        state = TrainState.from_plain(load_checkpoint(newest)["state"])
    except (UnreadableCheckpointError, ValueError, TypeError, AttributeError):
        return False  # undamaged, so it must not be replaced
    except CheckpointError:
        return True
    return (state.epoch, state.step) <= (run.state.epoch, run.state.step)


def _continue_in_new_folder(
    run: OpenedRun, overrides: Sequence[Override], force: bool, progress: Progress, command: Sequence[str]
) -> TrainResult:
    def fill(folder: Path) -> None:
        try:
            write_text(folder / SPLITS, run.manifest.to_json())
            for name in (ENVIRONMENT, HISTORY):
                if (run.folder / name).is_file():
                    shutil.copyfile(run.folder / name, folder / name)
        except OSError as error:
            raise disk_error(error, folder, run.path.stat().st_size) from error
        itself_best = _carry_best_over(run, folder, progress)
        state = {key: value for key, value in run.checkpoint.items() if key != "format"}
        save_checkpoint(state, folder, best=itself_best, keep=run.config.checkpoint.keep)

    try:
        folder = create_run_folder(run.folder.parent, run.config.run.name, fill)
    except DiskError as error:
        error.hint = f"{repair_of(error.__cause__)}, then continue with: {resume_command(run.path)}"
        raise
    progress.line(
        f"{shown_path(run.path)} is not the newest checkpoint of its run, "
        f"so it continues in a new folder: {shown_path(folder)}"
    )
    with locked(folder):
        return _continue_here(run, folder, overrides, force, progress, command)


def _carry_best_over(run: OpenedRun, folder: Path, progress: Progress) -> bool:
    """Copies the best model as it was at the checkpoint; returns whether the checkpoint is itself that model."""
    state, best = run.state, run.folder / BEST
    if state.best_epoch == len(state.history) and state.batch == 0:
        return state.best_epoch > 0
    try:
        if len(load_checkpoint(best)["state"]["history"]) == state.best_epoch:
            shutil.copyfile(best, folder / BEST)
            return False
    except (CheckpointError, TypeError):
        pass
    if state.best_epoch:
        progress.line(
            f"The weights of epoch {state.best_epoch}, the best so far, are missing: the next epoch counts as the best."
        )
        run.checkpoint["state"]["best_value"] = math.inf
    return False


def _continue_here(
    run: OpenedRun, folder: Path, overrides: Sequence[Override], force: bool, progress: Progress, command: Sequence[str]
) -> TrainResult:
    config = run.config
    workload, runtime = build_workload(
        config, run.manifest, splits=("train", "val"), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    trainer = Trainer(workload, config, runtime, run.manifest.digest())
    try:
        trainer.load(run.checkpoint)
    except Exception as error:  # whatever is in the file, it does not fit
        raise CheckpointError(
            f"{run.path} does not fit this configuration: {reason_of(error)}",
            hint="settings of the network and of the optimizer cannot change in the middle of a run",
        ) from error
    if trainer.state.batch and batches_changed(run.checkpoint["config"]["training"], config):
        raise ConfigError(
            f"{shown_path(run.path)} is in the middle of an epoch, where the batch size cannot change",
            hint="leave out training.batch_size and training.accumulate_batches until the epoch has ended",
        )
    done = len(trainer.state.history)
    if config.training.epochs < done:
        raise ConfigError(
            f"training.epochs: {config.training.epochs} is less than the {counted(done, 'epoch')} already trained",
            hint=f"give more than {done} to train further",
        )
    with supervised(workload):
        check_proof(trainer, run.checkpoint, overrides, force, progress)
    tell_of_runtime(run.recorded, runtime, progress)
    metric_before = value_at(run.checkpoint["config"], "checkpoint.metric") or "loss"  # earlier versions had no other
    metric_changed = metric_before != workload.monitor and bool(trainer.state.history)
    is_best = metric_changed and _judge_by_new_metric(trainer, metric_before, progress)
    _extend(trainer.state, overrides)
    tell_of_schedule(run.checkpoint["config"]["training"], config, progress)
    run.checkpoint.clear()  # half a gigabyte for qr_cnn
    check_room(trainer, folder)
    if metric_changed:
        trainer.save(folder, best=is_best and config.checkpoint.save_best)
    with stop_on_signals(progress) as stop:
        return _train_on(run, trainer, folder, progress, command, stop)


def _train_on(
    run: OpenedRun, trainer: Trainer, folder: Path, progress: Progress, command: Sequence[str], stop: StopRequest
) -> TrainResult:
    config, runtime = trainer.config, trainer.runtime
    facts = describe(config, trainer.workload, runtime, run.manifest)
    try:
        _set_damaged_aside(run, folder, progress)
        write_text(folder / CONFIG, dump_config(config))
        write_environment(folder, command, runtime)
    except OSError as error:
        raise disk_error(error, folder, expected_bytes(trainer)) from error
    if not is_finished(trainer.state, config):
        show_facts(facts, progress, run=folder)
        progress.line(f"Continuing with {_next_of(trainer)}, from {run.path.name}")
    return run_to_the_end(trainer, folder, facts, progress, command, stop)


def _next_of(trainer: Trainer) -> str:
    """What a run continues with, in words."""
    state, batches = trainer.state, len(trainer.workload.loaders["train"])
    where = f"epoch {state.epoch:,} of {trainer.config.training.epochs:,}"
    if state.batch == batches:
        return f"the validation of {where}"
    return f"{where}, batch {state.batch + 1:,} of {batches:,}" if state.batch else where


def _judge_by_new_metric(trainer: Trainer, before: str, progress: Progress) -> bool:
    """Judges the epochs so far by the new deciding metric; returns whether the checkpoint is now the best.

    Raises:
        ConfigError: the epochs have no values of it.
    """
    metric, state, training = trainer.workload.monitor, trainer.state, trainer.config.training
    values = [row["val"].get(metric) for row in state.history]
    if None in values:
        raise ConfigError(
            f"checkpoint.metric: {metric} is not among the metrics of the epochs so far",
            hint=f"keep {before}, or start a new run with dbbd train",
        )
    costs = [cost(metric, value) for value in values]
    is_best = state.judge_again(costs, training.early_stopping_patience, training.early_stopping_min_delta)
    progress.line(
        f"From now on, the best epoch is the one with the {superlative(metric)} validation {metric}, not {before}. "
        f"Among the epochs whose weights are kept, that is epoch {state.best_epoch}."
    )
    return is_best


def _set_damaged_aside(run: OpenedRun, folder: Path, progress: Progress) -> None:
    """Keeps damaged checkpoints from taking the place of good ones at the next save, and from being deleted.

    Where the newest is good, the others are not read; what is no file at all would make that save fail.
    """
    if run.folder != folder:
        return
    for name in checkpoint_names(folder):
        path = folder / name
        if not path.is_file() or (run.path.name != NEWEST and is_damaged(path)):
            places = (damaged_path(path, number) for number in count(1))
            aside = next(place for place in places if not os.path.lexists(place))
            path.rename(aside)
            progress.line(f"The damaged {name} was renamed to {aside.name}.")


def _extend(state: TrainState, overrides: Sequence[Override]) -> None:
    """Asked for more epochs, a run that had stopped early goes on, with its patience renewed."""
    if state.stopped_early and any(override.key.startswith("training.") for override in overrides):
        state.stopped_early, state.patience_epochs = False, 0
