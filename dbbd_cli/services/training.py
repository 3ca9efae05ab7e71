"""Train a run in its folder to its end: the part of `train` and `resume` that needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from dbbd_cli.config.load import dump_config
from dbbd_cli.config.sections import TaskConfig, flat, to_plain
from dbbd_cli.core.errors import DataError, DiskError, ProcessError, StoppedError
from dbbd_cli.core.files import repair_of, write_text
from dbbd_cli.core.metrics import best_of
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.signals import StopRequest, signal_of, stop_on_signals
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, disk_error
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import seed_everything
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.report.drawing import message_of
from dbbd_cli.report.save import save_figure
from dbbd_cli.runs.folder import CONFIG, FIGURE, LOG, SPLITS, SYNTHETIC_NOTE, create_run_folder, locked
from dbbd_cli.runs.log import NoLog, RunLog
from dbbd_cli.runs.reading import read_run
from dbbd_cli.services.disk_space import check_disk_space, checkpoint_bytes
from dbbd_cli.services.plot import history_figure
from dbbd_cli.services.results import BestValue, RunFacts, TrainResult
from dbbd_cli.services.session import build_workload, describe, require_shardable, require_shared_batches, show_facts


def train_new_run(
    config: TaskConfig,
    manifest: Manifest,
    progress: Progress,
    command: Sequence[str],
    processes: Processes = ALONE,
) -> TrainResult:
    """Train a new run in a new folder; with several processes, all of them call this."""
    trainer, facts = build_trainer(config, manifest, progress, processes)
    runs_dir = Path(config.run.runs_dir)
    if processes.is_first:
        check_disk_space(trainer, runs_dir)

    def fill(folder: Path) -> None:
        try:
            write_text(folder / CONFIG, dump_config(config))
            manifest.write(folder / SPLITS)
            write_environment(folder, command, trainer.runtime)
            with supervised(trainer.workload):
                trainer.save(folder)
        except OSError as error:
            raise disk_error(error, folder, checkpoint_bytes(trainer)) from error

    # From here on, a signal only asks for a stop, so that a run folder always ends with a message about it.
    with stopping_together(progress, processes) as stop:
        folder = runs_dir
        if processes.is_first:
            try:
                folder = create_run_folder(runs_dir, config.run.name, fill)
            except DiskError as error:
                repair = repair_of(error.__cause__)
                error.hint = f"{repair}, or choose another folder with run.runs_dir, and start again"
                raise
        else:
            with supervised(trainer.workload):
                trainer.save(folder)
        folder = processes.share_folder(folder, command)
        with locked(folder) if processes.is_first else nullcontext():
            show_facts(facts, progress, run=folder)
            return train_to_the_end(trainer, folder, facts, progress, command, stop)


@contextmanager
def stopping_together(progress: Progress, processes: Processes) -> Iterator[StopRequest]:
    """Turn signals into a request to stop after the step; with several processes, a signal to one stops all."""
    with stop_on_signals(progress) as stop:
        if processes.size > 1:
            stop.agree = processes.agreed
        yield stop


def build_trainer(
    config: TaskConfig, manifest: Manifest, progress: Progress, processes: Processes = ALONE
) -> tuple[Trainer, RunFacts]:
    """Build a new run's trainer, whose weights depend on the seed alone, and the facts about the run."""
    processes.require_same_samples(manifest.digest())
    seed_everything(config.seed)
    with processes.in_turns():
        # What the first process loads or fits to the training data, it passes on to the others with its weights.
        workload, runtime = build_workload(
            config,
            manifest,
            splits=("train", "val"),
            pretrained=processes.is_first,
            progress=progress,
            processes=processes,
        )
    require_shared_batches(workload, processes)
    require_shardable(workload, runtime, config, processes)
    # All draw the same numbers from here on.
    torch.set_rng_state(processes.of_first(torch.get_rng_state()))
    with supervised(workload):
        trainer = Trainer(workload, config, runtime, manifest.digest(), processes)
    return trainer, describe(trainer, manifest)


def train_to_the_end(
    trainer: Trainer, folder: Path, facts: RunFacts, progress: Progress, command: Sequence[str], stop: StopRequest
) -> TrainResult:
    """Train to the last epoch, then draw the figure and sum up.

    Args:
        trainer: new, or restored from a checkpoint.
        folder: the run folder, which this process has locked.
        facts: the facts about the run.
        progress: shows bars and lines.
        command: the command line, for `run.log`.
        stop: says whether a signal has asked for a stop.
    """
    finished_before = trainer.finished
    with _errors_say_how_to_continue(trainer, folder):
        if not trainer.processes.is_first:
            with supervised(trainer.workload):
                fit(Run(trainer, folder, NoLog(), progress, stop))
            return _result(trainer, folder, facts, [], finished_before=finished_before)
        if facts.synthetic:
            note_synthetic(folder)
        with RunLog(folder, step=trainer.state.step, history=trainer.state.history, command=command) as log:
            with supervised(trainer.workload):
                fit(Run(trainer, folder, log, progress, stop))
            end = f"done after {trainer.state.seconds:.0f} s; best epoch {trainer.state.best_epoch}"
            # A run that was killed after its last checkpoint is finished, but its logs and its figure are not.
            ended_before = finished_before and end in (folder / LOG).read_text(encoding="utf-8", errors="replace")
            if not ended_before:
                _log_settings(trainer, log)
                log.text(end)
            plots = [folder / FIGURE]
            if not (ended_before and plots[0].exists()):
                plots = _draw(folder, progress) if trainer.config.run.plots and not stop else []
            if stop.signal_number is not None:
                raise StoppedError(
                    "Stopped after the last epoch; everything is saved.",
                    signal_number=stop.signal_number,
                    hint=f"continue with: {resume_command(folder)}",
                )
    return _result(trainer, folder, facts, plots, finished_before=finished_before)


@contextmanager
def _errors_say_how_to_continue(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Make errors say how to continue the run."""
    resume = resume_command(folder)
    try:
        yield
    except (DataError, ProcessError) as error:
        error.hint = f"{error.hint}; then continue with: {resume}" if error.hint else f"continue with: {resume}"
        raise
    except OSError as error:
        raise disk_error(error, folder, checkpoint_bytes(trainer)) from error
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"Stopped immediately in epoch {trainer.state.epoch}; the steps since the last checkpoint are lost.",
            signal_number=signal_of(error),
            hint=f"continue with: {resume}",
        ) from error


def note_synthetic(folder: Path) -> None:
    """Leave a note in a folder whose numbers come from synthetic data."""
    write_text(folder / SYNTHETIC_NOTE, "The data of this run is synthetic: its numbers say nothing about real data.\n")


def _log_settings(trainer: Trainer, log: RunLog) -> None:
    """Log the settings of a finished run with the metrics of its best epoch."""
    state = trainer.state
    settings = {key: value for key, value in flat(to_plain(trainer.config)).items() if value is not None}
    log.hyperparameters(settings, state.history[state.best_epoch - 1]["val"], state.step)


def _draw(folder: Path, progress: Progress) -> list[Path]:
    path = folder / FIGURE
    try:
        return [save_figure(history_figure([read_run(folder)]), path)]
    except Exception as error:  # training is done, and its result must not be lost over a figure
        progress.warn(f"{path.name} could not be drawn: {message_of(error)}")
        return []


def _result(
    trainer: Trainer, folder: Path, facts: RunFacts, plots: list[Path], *, finished_before: bool
) -> TrainResult:
    workload, state = trainer.workload, trainer.state
    best_values = {
        name: best_of(name, state.history) for name in dict.fromkeys([*workload.progress_metrics, workload.monitor])
    }
    return TrainResult(
        run=folder,
        facts=facts,
        epochs=len(state.history),
        seconds=state.seconds,
        metric=workload.monitor,
        best_epoch=state.best_epoch,
        best=dict(state.history[state.best_epoch - 1]["val"]),
        best_values={name: BestValue(*best) for name, best in best_values.items() if best is not None},
        best_model=folder / BEST if (folder / BEST).exists() else None,
        checkpoint=folder / NEWEST,
        plots=plots,
        stopped_early=state.stopped_early,
        skipped_steps=state.skipped_steps,
        finished_before=finished_before,
    )
