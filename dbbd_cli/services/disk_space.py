"""Check whether the checkpoints of a run fit on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.files import nearest_existing
from dbbd_cli.core.limits import largest_file
from dbbd_cli.engine.checkpoint.files import checkpoint_names, state_bytes
from dbbd_cli.engine.trainer import Trainer


def checkpoint_bytes(trainer: Trainer) -> int:
    """Size of a checkpoint after the first step: AdamW stores two values per trained weight, SGD one."""
    weights = state_bytes(trainer.module.state_dict())
    trained = sum(p.numel() * p.element_size() for p in trainer.module.parameters() if p.requires_grad)
    return weights + trained * (1 if trainer.config.training.optimizer == "sgd" else 2)


def checkpoints_bytes(trainer: Trainer) -> int:
    """Size of all checkpoints that exist at the same time: those that are kept, and the one being written."""
    return checkpoint_bytes(trainer) * _most_checkpoints(trainer)


def check_disk_space(trainer: Trainer, folder: Path) -> None:
    """Raise if the checkpoints of a run will not fit.

    Args:
        trainer: the run.
        folder: the run folder, or the folder in which it will be created.

    Raises:
        DiskError: says how much is needed, and how much is free.
    """
    size = checkpoint_bytes(trainer)
    if size > largest_file():
        raise DiskError(
            f"checkpoints are too large: they need about {size / 1e6:,.1f} MB each, and files of at most "
            f"{largest_file() / 1e6:,.1f} MB are allowed",
            hint="raise the limit on the size of a file (ulimit -f)",
        )
    existing = nearest_existing(folder)
    files = [(existing / name).stat() for name in checkpoint_names(existing)] if existing == folder else []
    # The best model may be a hard link to another checkpoint.
    files += [file.stat() for file in existing.glob("shards-*/*")] if existing == folder else []
    present = sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())
    needed, free = checkpoints_bytes(trainer) - present, shutil.disk_usage(existing).free
    if needed > free:
        already = f", {present / 1e6:,.1f} MB of which already exist" if present else ""
        raise DiskError(
            f"the checkpoints will not fit on the disk of {folder}: they need {needed / 1e6:,.1f} MB "
            f"({_most_checkpoints(trainer)} of {size / 1e6:,.1f} MB each{already}), "
            f"and only {free / 1e6:,.1f} MB is free",
            hint="free some space, or keep fewer checkpoints with --set checkpoint.keep=1 "
            "or --set checkpoint.save_best=false",
        )


def _most_checkpoints(trainer: Trainer) -> int:
    kept = trainer.config.checkpoint
    return kept.keep + kept.save_best + 1
