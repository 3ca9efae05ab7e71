"""What training takes from the manifest on: everything that needs PyTorch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from dbbd_cli.config.load import dump_config
from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import DataError, DiskError, StoppedError
from dbbd_cli.core.files import nearest_existing, repair_of, write_text
from dbbd_cli.core.limits import largest_file
from dbbd_cli.core.metrics import best_of
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.signals import StopRequest, stop_on_signals
from dbbd_cli.core.stopping import signal_of
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, checkpoint_names, disk_error, state_bytes
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.runtime import MIB, peak_memory_mb, seed_everything
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer, fit
from dbbd_cli.engine.workload import Workload
from dbbd_cli.report.drawing import reason_of
from dbbd_cli.report.history import training_history
from dbbd_cli.report.run import read_run
from dbbd_cli.report.save import save_figure
from dbbd_cli.runs.folder import CONFIG, SPLITS, RunLog, create_run_folder, locked
from dbbd_cli.services.results import BestValue, Forecast, RunFacts, TrainResult
from dbbd_cli.services.session import build_workload, describe, show_facts

SYNTHETIC_NOTE = "SYNTHETIC_DATA.txt"
FIGURE = "training_history.png"


def train_new_run(config: TaskConfig, manifest: Manifest, progress: Progress, command: Sequence[str]) -> TrainResult:
    """Trains a new run in a new folder."""
    trainer, facts = _build(config, manifest, progress)
    check_room(trainer, Path(config.run.runs_dir))

    def fill(folder: Path) -> None:
        try:
            write_text(folder / CONFIG, dump_config(config))
            write_text(folder / SPLITS, manifest.to_json())
            write_environment(folder, command, trainer.runtime)
            with supervised(trainer.workload):
                trainer.save(folder)
        except OSError as error:
            raise disk_error(error, folder, expected_bytes(trainer)) from error

    # From here on a signal only asks to stop: once there is a run folder, it goes on after it.
    with stop_on_signals(progress) as stop:
        try:
            folder = create_run_folder(Path(config.run.runs_dir), config.run.name, fill)
        except DiskError as error:
            repair = repair_of(error.__cause__)
            error.hint = f"{repair}, or choose another folder with run.runs_dir, and start again"
            raise
        with locked(folder):
            show_facts(facts, progress, run=folder)
            return run_to_the_end(trainer, folder, facts, progress, command, stop)


def _build(config: TaskConfig, manifest: Manifest, progress: Progress) -> tuple[Trainer, RunFacts]:
    # The weights depend on the seed alone, not on what preparing the data drew.
    seed_everything(config.seed)
    workload, runtime = build_workload(config, manifest, splits=("train", "val"), pretrained=True, progress=progress)
    facts = describe(config, workload, runtime, manifest)
    with supervised(workload):
        return Trainer(workload, config, runtime, manifest.digest()), facts


def expected_bytes(trainer: Trainer) -> int:
    """Bytes of a checkpoint once the optimizer has its memory: two values per weight for AdamW, one for SGD."""
    weights = state_bytes(trainer.workload.module.state_dict())
    trained = sum(p.numel() * p.element_size() for p in trainer.workload.module.parameters() if p.requires_grad)
    return weights + trained * (1 if trainer.config.training.optimizer == "sgd" else 2)


def room_needed(trainer: Trainer) -> int:
    """Bytes on the disk of all checkpoints that are there at once: those that are kept, and the one being written."""
    checkpoint = trainer.config.checkpoint
    return expected_bytes(trainer) * (checkpoint.keep + checkpoint.save_best + 1)


def check_room(trainer: Trainer, folder: Path) -> None:
    """Raises where the checkpoints of a run will not fit.

    Args:
        trainer: the run.
        folder: the run folder, or the folder in which it is to be made.

    Raises:
        DiskError: says how much there is, and how much is needed.
    """
    if expected_bytes(trainer) > largest_file():
        raise DiskError(
            f"checkpoints are too large: they need about {expected_bytes(trainer) / 1e6:,.1f} MB each, and files of at "
            f"most {largest_file() / 1e6:,.1f} MB are allowed",
            hint="raise the limit on the size of a file (ulimit -f)",
        )
    existing = nearest_existing(folder)
    files = [(existing / name).stat() for name in checkpoint_names(existing)] if existing == folder else []
    there = sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())  # the best may be another's link
    needed, free = room_needed(trainer) - there, shutil.disk_usage(existing).free
    if needed > free:
        kept = trainer.config.checkpoint
        raise DiskError(
            f"the checkpoints will not fit on the disk of {folder}: {needed / 1e6:,.1f} MB are needed "
            f"({kept.keep + kept.save_best + 1} of {expected_bytes(trainer) / 1e6:,.1f} MB"
            f"{f', {there / 1e6:,.1f} MB of which are there' if there else ''}), "
            f"and {free / 1e6:,.1f} MB are free",
            hint="free some space, or keep fewer with --set checkpoint.keep=1 or --set checkpoint.save_best=false",
        )


def note_synthetic(folder: Path) -> None:
    """Leaves a note in a folder whose numbers come from synthetic data."""
    write_text(folder / SYNTHETIC_NOTE, "The data of this run is synthetic: its numbers say nothing about real data.\n")


def run_to_the_end(
    trainer: Trainer, folder: Path, facts: RunFacts, progress: Progress, command: Sequence[str], stop: StopRequest
) -> TrainResult:
    """Trains from wherever the trainer is to the last epoch; then draws the plots and sums up."""
    state, config = trainer.state, trainer.config
    finished_before = is_finished(state, config)
    go_on = f"continue with: {resume_command(folder)}"
    log: RunLog | None = None
    try:
        if facts.synthetic:
            note_synthetic(folder)
        log = RunLog(folder, step=state.step, history=state.history, command=command)
        with supervised(trainer.workload):
            if not (folder / NEWEST).exists():
                # A run that is killed in its first epoch can be resumed too, and a full disk shows at once.
                trainer.save(folder)
            try:
                with trainer.writer:
                    fit(trainer, folder, log, progress, stop)
            except DataError as error:
                # It comes from where a batch is waited for: nothing that was done is lost.
                if trainer.at_step_boundary:
                    # Without a proof: the batch that it takes may be what hangs, or what there is no memory for.
                    trainer.save(folder, log, proven=False)
                error.hint = f"{error.hint}; then {go_on}" if error.hint else go_on
                raise
        best = dict(state.history[state.best_epoch - 1]["val"])
        figure = folder / FIGURE
        if finished_before and (figure.exists() or not config.run.plots):
            plots = [figure] if figure.exists() else []
        else:
            log.hyperparameters(_flat(to_plain(config)), best, state.step)
            log.text(f"done after {state.seconds:.0f} s; best epoch {state.best_epoch}")
            plots = _plots(folder, progress) if config.run.plots and not stop else []
        if stop.signal_number is not None:
            raise StoppedError(
                "Stopped after the last epoch; everything is saved.", signal_number=stop.signal_number, hint=go_on
            )
    except BaseException as error:
        if log is not None:
            with suppress(OSError):  # the disk may be what failed
                log.text(f"ended by {type(error).__name__}: {error}")
        if isinstance(error, OSError):
            raise disk_error(error, folder, expected_bytes(trainer)) from error
        if isinstance(error, KeyboardInterrupt):
            raise StoppedError(
                f"Stopped immediately in epoch {state.epoch}; the steps since the last checkpoint are lost.",
                signal_number=signal_of(error),
                hint=go_on,
            ) from error
        raise
    finally:
        if log is not None:
            with suppress(OSError):
                log.close()
    return TrainResult(
        run=folder,
        facts=facts,
        epochs=len(state.history),
        seconds=state.seconds,
        metric=trainer.workload.monitor,
        best_epoch=state.best_epoch,
        best=best,
        best_values=_best_values(trainer.workload, state),
        best_model=folder / BEST if (folder / BEST).exists() else None,
        checkpoint=folder / NEWEST,
        plots=plots,
        stopped_early=state.stopped_early,
        skipped_steps=state.skipped_steps,
        finished_before=finished_before,
    )


def is_finished(state: TrainState, config: TaskConfig) -> bool:
    """Whether there is nothing left to train."""
    return state.epoch > config.training.epochs or state.stopped_early


def _best_values(workload: Workload, state: TrainState) -> dict[str, BestValue]:
    """The best value in any epoch of the summary metrics and the deciding one."""
    found = {
        name: best_of(name, state.history) for name in dict.fromkeys([*workload.progress_metrics, workload.monitor])
    }
    return {name: BestValue(*best) for name, best in found.items() if best is not None}


def _plots(folder: Path, progress: Progress) -> list[Path]:
    path = folder / FIGURE
    try:
        return [save_figure(training_history([read_run(folder)]), path)]
    except Exception as error:  # the training is done, and its result must not be lost for a figure
        progress.warn(f"{path.name} could not be drawn: {reason_of(error)}")
        return []


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def measure_run(config: TaskConfig, manifest: Manifest, progress: Progress) -> Forecast:
    """Runs one training and one validation batch, twice: the first time sets up memory, the second is measured."""
    trainer, facts = _build(config, manifest, progress)
    with supervised(trainer.workload):
        return _measure(trainer, facts)


def _measure(trainer: Trainer, facts: RunFacts) -> Forecast:
    workload, config, runtime = trainer.workload, trainer.config, trainer.runtime
    module, optimizer, scaler = workload.module, trainer.optimizer, trainer.scaler

    first_loss, train_seconds, val_seconds = 0.0, 0.0, 0.0
    raw_batch = next(workload.loaders["train"].batches(epoch=1))
    module.train()
    for attempt in range(2):
        start = time.perf_counter()
        batch = workload.to_device(raw_batch, runtime.device, train=True)
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            output = module(*batch)
        scaler.scale(output.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        runtime.synchronize()
        train_seconds = time.perf_counter() - start
        first_loss = first_loss if attempt else output.loss.item()
    raw_batch = next(workload.loaders["val"].batches(epoch=0))
    module.eval()
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            with runtime.autocast():
                module(*workload.to_device(raw_batch, runtime.device, train=False))
            runtime.synchronize()
            val_seconds = time.perf_counter() - start

    per_epoch = train_seconds * facts.batches["train"] + val_seconds * facts.batches["val"]
    return Forecast(
        facts=facts,
        epochs=config.training.epochs,
        seconds_per_epoch=per_epoch,
        seconds_total=per_epoch * config.training.epochs,
        peak_memory_mb=peak_memory_mb(runtime.device),
        checkpoint_mb=expected_bytes(trainer) / MIB,
        disk_needed_mb=room_needed(trainer) / MIB,
        disk_free_mb=shutil.disk_usage(nearest_existing(Path(config.run.runs_dir))).free / MIB,
        train_loss=first_loss,
    )
