"""Going on with a run that was stopped, or extending one that was done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.config.load import Override, dump_config
from dbbd_cli.engine.checkpoint import BEST, NEWEST, load_checkpoint, save_checkpoint
from dbbd_cli.engine.run_folder import CONFIG, HISTORY, SPLITS, create_run_folder, locked, write_environment
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.errors import CheckpointError, ConfigError
from dbbd_cli.files import write_text
from dbbd_cli.paths import resume_command, shown_path
from dbbd_cli.progress import Progress, Silent
from dbbd_cli.services.results import TrainResult
from dbbd_cli.services.session import OpenedRun, build_task, describe, open_run, show_facts
from dbbd_cli.services.train import run_to_the_end, with_absolute_paths


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
    target = target.absolute()
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
        return _step_of(load_checkpoint(newest)) <= _step_of(run.checkpoint)
    except CheckpointError:
        return True


def _step_of(checkpoint: dict[str, object]) -> tuple[int, int]:
    state = checkpoint["state"]
    assert isinstance(state, dict)
    return state["epoch"], state["step"]


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
        if (run.folder / BEST).exists() and load_checkpoint(run.folder / BEST)["state"]["step"] <= _step_of(
            run.checkpoint
        )[1]:
            for name in (BEST, BEST + ".sha256"):
                shutil.copyfile(run.folder / name, folder / name)
        save_checkpoint({k: v for k, v in run.checkpoint.items() if k != "format"}, folder, best=False)
        return _resume_here(run, folder, overrides, progress, command)


def _resume_here(
    run: OpenedRun, folder: Path, overrides: Sequence[Override], progress: Progress, command: Sequence[str]
) -> TrainResult:
    config = with_absolute_paths(run.config)
    task, runtime = build_task(config, run.manifest, splits=("train", "val"), pretrained=False, progress=progress)
    trainer = Trainer(task, config, runtime)
    try:
        trainer.load(run.checkpoint)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{run.path} does not fit this configuration: {str(error).splitlines()[0]}",
            hint="settings of the network and of the optimizer cannot change in the middle of a run",
        ) from error
    if trainer.state.batch and _batches_changed(run):
        raise ConfigError(
            f"{shown_path(run.path)} is in the middle of an epoch, where batches cannot change their size",
            hint="leave out training.batch_size and training.accumulate_batches until the epoch has ended",
        )
    _extend(trainer.state, overrides)
    facts = describe(config, task, runtime, run.manifest)
    write_text(folder / CONFIG, dump_config(config))
    write_environment(folder, command, runtime.description)
    show_facts(facts, progress, run=folder)
    state, epochs = trainer.state, config.training.epochs
    if state.epoch > epochs or state.stopped_early:
        progress.line(
            f"The run has finished its {len(state.history)} epochs. To go on: {resume_command(folder, '--epochs', 'N')}"
        )
    else:
        where = f", batch {state.batch}" if state.batch else ""
        progress.line(f"Continuing with epoch {state.epoch} of {epochs}{where}, from {run.path.name}")
    return run_to_the_end(trainer, folder, facts, progress, command)


def _batches_changed(run: OpenedRun) -> bool:
    before, now = run.checkpoint["config"]["training"], run.config.training
    return (before["batch_size"], before["accumulate_batches"]) != (now.batch_size, now.accumulate_batches)


def _extend(state: TrainState, overrides: Sequence[Override]) -> None:
    """Asked for more epochs, a run that had stopped early goes on, with its patience renewed."""
    if state.stopped_early and any(override.key.startswith("training.") for override in overrides):
        state.stopped_early, state.patience_epochs = False, 0
