"""Estimate the cost of a run from one optimizer step and one validation batch: time, memory and disk space."""

from __future__ import annotations

import shutil
import time
from itertools import islice
from pathlib import Path

import torch

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.files import nearest_existing
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.runtime import MIB, peak_memory_mb
from dbbd_cli.engine.trainer import Trainer, train_step
from dbbd_cli.services.disk_space import checkpoint_bytes, checkpoints_bytes
from dbbd_cli.services.results import Forecast
from dbbd_cli.services.training import build_trainer


def measure_run(config: TaskConfig, manifest: Manifest, progress: Progress) -> Forecast:
    """Run one optimizer step and one validation batch, twice: the first time sets up memory, the second is measured.

    Raises:
        NotFiniteError: the loss or the gradient of the training batch is not finite.
    """
    trainer, facts = build_trainer(config, manifest, progress)
    with supervised(trainer.workload):
        loss, train_seconds = _measure_training(trainer, facts.batches["train"])
        val_seconds = _measure_validation(trainer)
    epoch_seconds = train_seconds + val_seconds * facts.batches["val"]
    return Forecast(
        facts=facts,
        epochs=config.training.epochs,
        seconds_per_epoch=epoch_seconds,
        seconds_total=epoch_seconds * config.training.epochs,
        peak_memory_mb=peak_memory_mb(trainer.runtime.device),
        checkpoint_mb=checkpoint_bytes(trainer) / MIB,
        disk_needed_mb=checkpoints_bytes(trainer) / MIB,
        disk_free_mb=shutil.disk_usage(nearest_existing(Path(config.run.runs_dir))).free / MIB,
        train_loss=loss,
    )


def _measure_training(trainer: Trainer, num_batches: int) -> tuple[float, float]:
    """The loss before any update, and the seconds of an epoch's batches."""
    loader, batches_per_step = trainer.workload.loaders["train"], trainer.config.training.accumulate_batches
    batches = list(islice(loader.batches(epoch=1), batches_per_step))
    trainer.module.train()
    results, seconds = [], 0.0
    for _ in range(2):
        trainer.state.batch = 0  # the same batches again
        start = time.perf_counter()
        results.append(train_step(trainer, batches))
        trainer.runtime.synchronize()
        seconds = time.perf_counter() - start
    if not results[0].finite and trainer.config.training.on_nonfinite == "stop":
        raise results[0].error(Path(trainer.config.run.runs_dir))
    return results[0].losses[0].item(), seconds * num_batches / len(batches)


def _measure_validation(trainer: Trainer) -> float:
    """The seconds of a validation batch."""
    workload, runtime = trainer.workload, trainer.runtime
    batch = next(workload.loaders["val"].batches(epoch=0))
    trainer.module.eval()
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode(), runtime.autocast():
            trainer.module(*workload.to_device(batch, runtime.device, train=False))
        runtime.synchronize()
        seconds = time.perf_counter() - start
    return seconds
