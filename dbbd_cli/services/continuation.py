"""Continue a run whose folder is locked: the part of `resume` that needs PyTorch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path

from dbbd_cli.config.load import Override, dump_config
from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError, reason_of
from dbbd_cli.core.files import repair_of, write_text
from dbbd_cli.core.paths import resume_command, shown_path
from dbbd_cli.core.processes import Member
from dbbd_cli.core.progress import Progress
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
from dbbd_cli.engine.checkpoint.shards import copy_shards
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.processes import Processes, joined
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.runs.folder import CONFIG, ENVIRONMENT, HISTORY, SPLITS, create_run_folder, locked
from dbbd_cli.services.disk_space import check_disk_space, checkpoint_bytes
from dbbd_cli.services.results import TrainResult
from dbbd_cli.services.resume_checks import (
    check_replay,
    check_training_settings,
    report_config_changes,
    report_runtime_change,
    report_schedule_change,
)
from dbbd_cli.services.session import (
    OpenedRun,
    build_workload,
    describe,
    open_run,
    require_shardable,
    require_shared_batches,
    show_facts,
)
from dbbd_cli.services.training import stopping_together, train_to_the_end
from dbbd_cli.tasks.configs import config_from_mapping


def continue_run(
    target: Path,
    *,
    member: Member,
    overrides: Sequence[Override],
    force: bool,
    progress: Progress,
    command: Sequence[str],
) -> TrainResult:
    """Continue a run whose folder is locked, as one of the processes that all call this; see `resume`."""
    run = open_run(
        target,
        prefer=NEWEST,
        overrides=overrides,
        force=force,
        progress=progress,
        member=member,
        divided=member.size > 1,
    )
    with joined(member, timeout=run.config.run.process_timeout) as processes:
        processes.require_same_checkpoint(run.digest)
        begun = processes.begun_folder(command)
        if begun is not None and begun != run.folder:  # an attempt before this one had begun a branch
            return continue_begun(begun, processes, overrides, force, progress=progress, command=command)
        if _is_newest(run):
            refuse_unreadable(run.folder, lambda values, origin: config_from_mapping(values, origin=origin))
            report_config_changes(run, progress)
            return _continue_in(run.folder, run, processes, overrides, force, progress, command)
        stopped_early = run.state.stopped_early and not _renews_patience(overrides)
        if stopped_early or run.state.epoch > run.config.training.epochs:
            raise ConfigError(
                f"{shown_path(run.path)} is not the newest checkpoint of its run, and nothing is left to train from it",
                hint="to continue a copy of the run from there, pass more epochs with --epochs",
            )
        folder = _branch(run, progress) if processes.is_first else run.folder
        folder = processes.share_folder(folder, command)
        # The first one knows which models it has copied.
        run.checkpoint["state"]["best_value"] = processes.of_first(run.checkpoint["state"]["best_value"])
        with locked(folder) if processes.is_first else nullcontext():
            return _continue_in(folder, run, processes, overrides, force, progress, command)


def continue_begun(
    folder: Path,
    processes: Processes,
    overrides: Sequence[Override] = (),
    force: bool = False,
    *,
    progress: Progress,
    command: Sequence[str],
) -> TrainResult:
    """Continue the run that the command had begun before torchrun restarted its processes."""
    with locked(folder) if processes.is_first else nullcontext():
        run = open_run(
            folder,
            prefer=NEWEST,
            overrides=overrides,
            force=force,
            progress=progress,
            member=processes,
            divided=True,
        )
        processes.require_same_checkpoint(run.digest)
        return _continue_in(folder, run, processes, overrides, force, progress, command)


def _renews_patience(overrides: Sequence[Override]) -> bool:
    """Whether a run that stopped early continues: a training setting, such as more epochs, is given."""
    return any(override.key.startswith("training.") for override in overrides)


def _is_newest(run: OpenedRun) -> bool:
    newest = run.folder / NEWEST
    if run.path.name == NEWEST or not newest.exists():
        return True
    try:
        state = TrainState.from_plain(load_checkpoint(newest, whole=False)["state"])
    except (UnreadableCheckpointError, ValueError, TypeError, AttributeError):
        return False  # undamaged, so it must not be replaced
    except CheckpointError:
        return True
    return (state.epoch, state.step) <= (run.state.epoch, run.state.step)


def _branch(run: OpenedRun, progress: Progress) -> Path:
    """Create a new run folder that continues from an older checkpoint, so that the newer ones are kept."""

    def fill(folder: Path) -> None:
        try:
            run.manifest.write(folder / SPLITS)
            copy_shards(run.checkpoint, run.path, folder)
            for name in (ENVIRONMENT, HISTORY):
                if (run.folder / name).is_file():
                    shutil.copyfile(run.folder / name, folder / name)
            is_best = _copy_best(run, folder, progress)
        except OSError as error:
            raise disk_error(error, folder, run.path.stat().st_size) from error
        state = {key: value for key, value in run.checkpoint.items() if key != "format"}
        save_checkpoint(state, folder, best=is_best, keep=run.config.checkpoint.keep)

    try:
        folder = create_run_folder(run.folder.parent, run.config.run.name, fill)
    except DiskError as error:
        error.hint = f"{repair_of(error.__cause__)}, then continue with: {resume_command(run.path)}"
        raise
    progress.line(
        f"{shown_path(run.path)} is not the newest checkpoint of its run, "
        f"so it continues in a new folder: {shown_path(folder)}"
    )
    return folder


def _copy_best(run: OpenedRun, folder: Path, progress: Progress) -> bool:
    """Copy the best model as of the checkpoint; return whether the checkpoint is itself that model."""
    state, best = run.state, run.folder / BEST
    if state.best_epoch == len(state.history) and state.batch == 0:
        return state.best_epoch > 0
    try:
        saved = load_checkpoint(best, whole=False)
        if len(saved["state"]["history"]) == state.best_epoch:
            copy_shards(saved, best, folder)
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


def _continue_in(
    folder: Path,
    run: OpenedRun,
    processes: Processes,
    overrides: Sequence[Override],
    force: bool,
    progress: Progress,
    command: Sequence[str],
) -> TrainResult:
    """Restore the trainer from the checkpoint, check that it is still the same run, and train on in `folder`."""
    with processes.reporting_once():
        check_training_settings(run, processes.size)
        trainer = _restored_trainer(run, processes, progress)
    with supervised(trainer.workload), processes.reporting_once():
        check_replay(trainer, run, force, progress)
    report_runtime_change(run.recorded, trainer.runtime, progress)
    if trainer.state.stopped_early and _renews_patience(overrides):
        trainer.state.stopped_early, trainer.state.patience_epochs = False, 0
    report_schedule_change(run, progress)
    run.checkpoint.clear()  # half a gigabyte for qr_cnn
    facts = describe(trainer, run.manifest)
    if processes.is_first:
        check_disk_space(trainer, folder)
    with stopping_together(progress, processes) as stop:
        if processes.is_first:
            try:
                if folder == run.folder:
                    _set_damaged_aside(run, progress)
                write_text(folder / CONFIG, dump_config(run.config))
                write_environment(folder, command, trainer.runtime)
            except OSError as error:
                raise disk_error(error, folder, checkpoint_bytes(trainer)) from error
        if not trainer.finished:
            show_facts(facts, progress, run=folder)
            progress.line(f"Continuing with {_position(trainer)}, from {run.path.name}")
        return train_to_the_end(trainer, folder, facts, progress, command, stop)


def _restored_trainer(run: OpenedRun, processes: Processes, progress: Progress) -> Trainer:
    config, manifest = run.config, run.manifest
    with processes.in_turns():
        workload, runtime = build_workload(
            config,
            manifest,
            splits=("train", "val"),
            pretrained=False,
            progress=progress,
            recorded=run.kept_runtime,
            processes=processes,
        )
    require_shared_batches(workload, processes)
    require_shardable(workload, runtime, config, processes)
    trainer = Trainer(workload, config, runtime, manifest.digest(), processes, run.batch_size)
    try:
        trainer.load(run.checkpoint, run.path)
    except Exception as error:  # of any kind, as the file may contain anything
        raise CheckpointError(
            f"{run.path} does not match this configuration: {reason_of(error)}",
            hint="settings of the network and of the optimizer cannot change in the middle of a run",
        ) from error
    return trainer


def _position(trainer: Trainer) -> str:
    """Where a run continues, in words."""
    state = trainer.state
    where = f"epoch {state.epoch:,} of {trainer.config.training.epochs:,}"
    if trainer.epoch_trained:
        return f"the validation of {where}"
    batches = len(trainer.workload.loaders["train"])
    return f"{where}, batch {state.batch + 1:,} of {batches:,}" if state.batch else where


def _set_damaged_aside(run: OpenedRun, progress: Progress) -> None:
    """Rename damaged checkpoints, so that the next save neither deletes them nor counts them among those it keeps.

    If the newest is good, the others are not read, except for what is not a file at all and would make that save fail.
    """
    for name in checkpoint_names(run.folder):
        path = run.folder / name
        if not path.is_file() or (run.path.name != NEWEST and is_damaged(path)):
            candidates = (damaged_path(path, number) for number in count(1))
            aside = next(candidate for candidate in candidates if not os.path.lexists(candidate))
            path.rename(aside)
            progress.line(f"The damaged {name} was renamed to {aside.name}.")
