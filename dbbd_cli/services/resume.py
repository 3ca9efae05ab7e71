"""Going on with a run that was stopped, or extending one that was done."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override, dump_config
from dbbd_cli.config.schema import Config
from dbbd_cli.engine.checkpoint import BEST, NEWEST, load_checkpoint, save_checkpoint
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.run_folder import CONFIG, HISTORY, SPLITS, create_run_folder, locked
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.errors import CheckpointError, ConfigError
from dbbd_cli.files import write_text
from dbbd_cli.model.safe_load import reason_of
from dbbd_cli.paths import resume_command, shown_path
from dbbd_cli.progress import Progress, Silent
from dbbd_cli.services.results import TrainResult
from dbbd_cli.services.session import OpenedRun, build_task, describe, open_run, show_facts
from dbbd_cli.services.training import run_to_the_end


def resume(
    target: Path,
    *,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> TrainResult:
    """Continues a run exactly where its checkpoint left it, in its own folder.

    A checkpoint that is not the newest of its folder is continued in a new folder, so that nothing is lost.

    Args:
        target: a run folder, or a checkpoint file inside one.
        overrides: settings that replace those of the run, such as more epochs.
        progress: shows bars and lines; nothing is shown by default.
        command: the command line, for the record.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    target = target.resolve()
    folder = target if target.is_dir() else target.parent
    if not folder.is_dir():
        raise CheckpointError(f"{target} does not exist", hint="give a run folder, or a .pth file inside one")
    if not (folder / SPLITS).exists():
        raise CheckpointError(
            f"{target} is not in a run folder: there is no {SPLITS} beside it",
            hint="give a run folder, or a .pth file inside one",
        )
    with locked(folder):
        run = open_run(target, prefer=NEWEST, overrides=overrides, progress=progress)
        if not _is_newest(run):
            return _resume_in_new_folder(run, overrides, progress, command)
        return _resume_here(run, run.folder, overrides, progress, command)


def _is_newest(run: OpenedRun) -> bool:
    newest = run.folder / NEWEST
    if run.path.name == NEWEST or not newest.exists():
        return True
    try:
        state = TrainState.from_plain(load_checkpoint(newest)["state"])
    except (CheckpointError, ValueError):
        return True
    return (state.epoch, state.step) <= (run.state.epoch, run.state.step)


def _resume_in_new_folder(
    run: OpenedRun, overrides: Sequence[Override], progress: Progress, command: Sequence[str]
) -> TrainResult:
    folder = create_run_folder(run.folder.parent, run.config.run.name)
    progress.line(
        f"{shown_path(run.path)} is not the newest checkpoint of its run, "
        f"so it goes on in a new folder: {shown_path(folder)}"
    )
    with locked(folder):
        shutil.copyfile(run.folder / SPLITS, folder / SPLITS)
        if (run.folder / HISTORY).exists():
            shutil.copyfile(run.folder / HISTORY, folder / HISTORY)
        itself_best = _carry_best_over(run, folder, progress)
        save_checkpoint({k: v for k, v in run.checkpoint.items() if k != "format"}, folder, best=itself_best)
        return _resume_here(run, folder, overrides, progress, command)


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
            f"The weights of epoch {state.best_epoch}, best so far, are no longer there: the best starts anew."
        )
        run.checkpoint["state"]["best_value"] = math.inf
    return False


def _resume_here(
    run: OpenedRun, folder: Path, overrides: Sequence[Override], progress: Progress, command: Sequence[str]
) -> TrainResult:
    config = run.config
    task, runtime = build_task(config, run.manifest, splits=("train", "val"), pretrained=False, progress=progress)
    trainer = Trainer(task, config, runtime)
    try:
        trainer.load(run.checkpoint)
    except Exception as error:  # whatever is in the file, it does not fit
        raise CheckpointError(
            f"{run.path} does not fit this configuration: {reason_of(error)}",
            hint="settings of the network and of the optimizer cannot change in the middle of a run",
        ) from error
    if trainer.state.batch and _batches_changed(run.checkpoint["config"]["training"], config):
        raise ConfigError(
            f"{shown_path(run.path)} is in the middle of an epoch, where batches cannot change their size",
            hint="leave out training.batch_size and training.accumulate_batches until the epoch has ended",
        )
    done = len(trainer.state.history)
    if config.training.epochs < done:
        raise ConfigError(
            f"training.epochs: {config.training.epochs} is less than the {done} epochs that are done",
            hint=f"give more than {done} to go on",
        )
    _extend(trainer.state, overrides)
    _tell_of_schedule(run.checkpoint["config"]["training"], config, progress)
    run.checkpoint.clear()  # half a gigabyte for qr_cnn
    facts = describe(config, task, runtime, run.manifest)
    write_text(folder / CONFIG, dump_config(config))
    write_environment(folder, command, runtime.description)
    show_facts(facts, progress, run=folder)
    state, epochs = trainer.state, config.training.epochs
    if state.epoch > epochs or state.stopped_early:
        how = (
            f"stopped early after {done} of {epochs} epochs"
            if state.stopped_early
            else f"has finished its {done} epochs"
        )
        progress.line(f"The run {how}. To go on: {resume_command(folder, '--epochs', 'N')}")
    else:
        where = f", batch {state.batch}" if state.batch else ""
        progress.line(f"Continuing with epoch {state.epoch} of {epochs}{where}, from {run.path.name}")
    return run_to_the_end(trainer, folder, facts, progress, command)


def _batches_changed(made_with: Mapping[str, Any], config: Config) -> bool:
    now = config.training
    return (made_with["batch_size"], made_with["accumulate_batches"]) != (now.batch_size, now.accumulate_batches)


def _tell_of_schedule(made_with: Mapping[str, Any], config: Config, progress: Progress) -> None:
    now = config.training
    if now.scheduler == "cosine" and now.scheduler_epochs is None and now.epochs != made_with["epochs"]:
        progress.line(
            f"The cosine schedule was made for another number of epochs ({made_with['epochs']}): this run will not "
            f"equal one of {now.epochs} epochs in one go. For that, set training.scheduler_epochs from the start."
        )


def _extend(state: TrainState, overrides: Sequence[Override]) -> None:
    """Asked for more epochs, a run that had stopped early goes on, with its patience renewed."""
    if state.stopped_early and any(override.key.startswith("training.") for override in overrides):
        state.stopped_early, state.patience_epochs = False, 0
