"""Training a new run, and forecasting what it would take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from dbbd_cli.config.load import dump_config
from dbbd_cli.config.schema import Config, to_plain
from dbbd_cli.engine.checkpoint import BEST, NEWEST, state_bytes
from dbbd_cli.engine.run_folder import CONFIG, SPLITS, RunLog, create_run_folder, locked, write_environment
from dbbd_cli.engine.runtime import MIB, peak_memory_mb, seed_everything
from dbbd_cli.engine.signals import stop_on_signals
from dbbd_cli.engine.trainer import Trainer, fit
from dbbd_cli.files import write_text
from dbbd_cli.progress import Progress, Silent
from dbbd_cli.services.plot import plot
from dbbd_cli.services.results import Forecast, RunFacts, TrainResult
from dbbd_cli.services.session import build_task, describe, show_facts
from dbbd_cli.tasks.image_classification import make_image_manifest

SYNTHETIC_NOTE = "SYNTHETIC_DATA.txt"
CHECKPOINTS_ON_DISK = 4
"""Newest, previous, best, and the one being written."""


def train(config: Config, *, progress: Progress | None = None, command: Sequence[str] = ()) -> TrainResult:
    """Trains a new run in a new folder.

    Args:
        config: the configuration.
        progress: shows bars and lines; nothing is shown by default.
        command: the command line, for the record.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    config = with_absolute_paths(config)
    seed_everything(config.seed)
    manifest = make_image_manifest(config, progress)
    # Seeded again: the weights must not depend on what preparing the data drew.
    seed_everything(config.seed)
    task, runtime = build_task(config, manifest, splits=("train", "val"), pretrained=True, progress=progress)
    facts = describe(config, task, runtime, manifest)
    trainer = Trainer(task, config, runtime)
    folder = create_run_folder(Path(config.run.runs_dir).absolute(), config.run.name)
    with locked(folder):
        write_text(folder / CONFIG, dump_config(config))
        write_text(folder / SPLITS, manifest.to_json())
        write_environment(folder, command, runtime.description)
        if facts.synthetic:
            write_text(
                folder / SYNTHETIC_NOTE, "The data of this run is made up: no number here says anything of real data.\n"
            )
        show_facts(facts, progress, run=folder)
        return run_to_the_end(trainer, folder, facts, progress, command)


def run_to_the_end(
    trainer: Trainer, folder: Path, facts: RunFacts, progress: Progress, command: Sequence[str]
) -> TrainResult:
    """Trains from wherever the trainer is to the last epoch; then draws the plots and sums up."""
    state, config = trainer.state, trainer.config
    log = RunLog(folder, step=state.step, epoch=state.epoch, command=command)
    try:
        with stop_on_signals(progress) as stop:
            fit(trainer, folder, log, progress, stop)
        best = dict(state.history[state.best_epoch - 1]["val"])
        log.hyperparameters(_flat(to_plain(config)), best)
        log.text(f"done after {state.seconds:.0f} s; best epoch {state.best_epoch}")
    except BaseException as error:
        log.text(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        log.close()
    return TrainResult(
        run=folder,
        facts=facts,
        epochs=len(state.history),
        seconds=state.seconds,
        best_epoch=state.best_epoch,
        best=best,
        best_model=folder / BEST if config.checkpoint.save_best else None,
        checkpoint=folder / NEWEST,
        plots=plot([folder]).files if config.run.plots else [],
        stopped_early=state.stopped_early,
    )


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def with_absolute_paths(config: Config) -> Config:
    """The configuration with paths that hold from any working directory."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().resolve())

    data = config.data
    classes = {name: str(absolute(folder)) for name, folder in data.classes.items()} if data.classes else None
    weights = config.model.weights
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={"path": absolute(data.path), "classes": classes, "cache_dir": absolute(data.cache_dir)}
            ),
            "model": config.model.model_copy(
                update={"weights": weights if weights in ("none", "default") else absolute(weights)}
            ),
        }
    )


def forecast(config: Config, *, progress: Progress | None = None) -> Forecast:
    """Checks configuration and data, runs one training and one validation batch, and says what the run would take.

    Makes no run folder. Each batch is run twice: the first time sets up memory, the second is measured.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    config = with_absolute_paths(config)
    seed_everything(config.seed)
    manifest = make_image_manifest(config, progress)
    seed_everything(config.seed)
    task, runtime = build_task(config, manifest, splits=("train", "val"), pretrained=True, progress=progress)
    facts = describe(config, task, runtime, manifest)
    trainer = Trainer(task, config, runtime)
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
    runs_dir = Path(config.run.runs_dir).absolute()
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
