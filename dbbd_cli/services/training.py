"""What training takes from the manifest on: everything that needs PyTorch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from dbbd_cli.config.load import dump_config
from dbbd_cli.config.schema import Config, to_plain
from dbbd_cli.data.split import Manifest
from dbbd_cli.engine.checkpoint import BEST, NEWEST, save_checkpoint, state_bytes
from dbbd_cli.engine.environment import write_environment
from dbbd_cli.engine.failures import explained
from dbbd_cli.engine.run_folder import CONFIG, SPLITS, RunLog, create_run_folder, locked
from dbbd_cli.engine.runtime import MIB, peak_memory_mb, seed_everything
from dbbd_cli.engine.signals import stop_on_signals
from dbbd_cli.engine.trainer import Trainer, fit
from dbbd_cli.errors import DbbdError
from dbbd_cli.files import write_text
from dbbd_cli.progress import Progress
from dbbd_cli.report.history import training_history
from dbbd_cli.report.run import read_run
from dbbd_cli.report.save import save_figure
from dbbd_cli.services.results import Forecast, RunFacts, TrainResult
from dbbd_cli.services.session import build_task, describe, show_facts

SYNTHETIC_NOTE = "SYNTHETIC_DATA.txt"
CHECKPOINTS_ON_DISK = 4
"""Newest, previous, best, and the one being written."""


def train_new_run(config: Config, manifest: Manifest, progress: Progress, command: Sequence[str]) -> TrainResult:
    """Trains a new run in a new folder."""
    trainer, facts = _build(config, manifest, progress)
    folder = create_run_folder(Path(config.run.runs_dir), config.run.name)
    with locked(folder):
        write_text(folder / CONFIG, dump_config(config))
        write_text(folder / SPLITS, manifest.to_json())
        write_environment(folder, command, trainer.runtime.description)
        show_facts(facts, progress, run=folder)
        return run_to_the_end(trainer, folder, facts, progress, command)


def _build(config: Config, manifest: Manifest, progress: Progress) -> tuple[Trainer, RunFacts]:
    # The weights depend on the seed alone, not on what preparing the data drew.
    seed_everything(config.seed)
    task, runtime = build_task(config, manifest, splits=("train", "val"), pretrained=True, progress=progress)
    facts = describe(config, task, runtime, manifest)
    with explained(task):
        return Trainer(task, config, runtime), facts


def run_to_the_end(
    trainer: Trainer, folder: Path, facts: RunFacts, progress: Progress, command: Sequence[str]
) -> TrainResult:
    """Trains from wherever the trainer is to the last epoch; then draws the plots and sums up."""
    state, config = trainer.state, trainer.config
    if facts.synthetic:
        write_text(folder / SYNTHETIC_NOTE, "The data of this run is made up: no number here tells of real data.\n")
    log = RunLog(folder, step=state.step, history=state.history, command=command)
    try:
        with stop_on_signals(progress) as stop, explained(trainer.task):
            if not (folder / NEWEST).exists():
                # A run that is killed in its first epoch can be resumed too, and a full disk shows at once.
                save_checkpoint(trainer.to_plain(), folder, best=False)
            fit(trainer, folder, log, progress, stop)
        best = dict(state.history[state.best_epoch - 1]["val"])
        log.hyperparameters(_flat(to_plain(config)), best)
        log.text(f"done after {state.seconds:.0f} s; best epoch {state.best_epoch}")
    except BaseException as error:
        with suppress(OSError):  # the disk may be what failed
            log.text(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        with suppress(OSError):
            log.close()
    return TrainResult(
        run=folder,
        facts=facts,
        epochs=len(state.history),
        seconds=state.seconds,
        best_epoch=state.best_epoch,
        best=best,
        best_model=folder / BEST if (folder / BEST).exists() else None,
        checkpoint=folder / NEWEST,
        plots=_plots(folder, progress) if config.run.plots else [],
        stopped_early=state.stopped_early,
    )


def _plots(folder: Path, progress: Progress) -> list[Path]:
    try:
        return [save_figure(training_history([read_run(folder)]), folder / "training_history.png")]
    except DbbdError as error:  # the training is done, and its result must not be lost for a picture
        progress.warn(f"no figures were drawn: {error.message}")
        return []


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def measure_run(config: Config, manifest: Manifest, progress: Progress) -> Forecast:
    """Runs one training and one validation batch, twice: the first time sets up memory, the second is measured."""
    trainer, facts = _build(config, manifest, progress)
    with explained(trainer.task):
        return _measure(trainer, facts)


def _measure(trainer: Trainer, facts: RunFacts) -> Forecast:
    task, config, runtime = trainer.task, trainer.config, trainer.runtime
    module, optimizer, scaler = task.module, trainer.optimizer, trainer.scaler

    first_loss, train_seconds, val_seconds = 0.0, 0.0, 0.0
    raw_batch = next(task.loaders["train"].batches(epoch=1))
    module.train()
    for attempt in range(2):
        start = time.perf_counter()
        batch = task.to_device(raw_batch, runtime.device, train=True)
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            output = module(*batch)
        scaler.scale(output.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        runtime.synchronise()
        train_seconds = time.perf_counter() - start
        first_loss = first_loss if attempt else output.loss.item()
    raw_batch = next(task.loaders["val"].batches(epoch=0))
    module.eval()
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            with runtime.autocast():
                module(*task.to_device(raw_batch, runtime.device, train=False))
            runtime.synchronise()
            val_seconds = time.perf_counter() - start

    checkpoint_mb = state_bytes(trainer.to_plain()) / MIB
    runs_dir = Path(config.run.runs_dir)
    existing = next(folder for folder in (runs_dir, *runs_dir.parents) if folder.exists())
    per_epoch = train_seconds * facts.batches["train"] + val_seconds * facts.batches["val"]
    return Forecast(
        facts=facts,
        epochs=config.training.epochs,
        seconds_per_epoch=per_epoch,
        seconds_total=per_epoch * config.training.epochs,
        peak_memory_mb=peak_memory_mb(runtime.device),
        checkpoint_mb=checkpoint_mb,
        disk_needed_mb=checkpoint_mb * CHECKPOINTS_ON_DISK,
        disk_free_mb=shutil.disk_usage(existing).free / MIB,
        train_loss=first_loss,
    )
