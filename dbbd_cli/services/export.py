"""Write the weights of a checkpoint to one file that other programs read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save

from dbbd_cli import __version__
from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError, reason_of
from dbbd_cli.core.files import atomic_file, repair_of
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.engine.checkpoint.files import BEST, state_bytes
from dbbd_cli.engine.state import TrainState
from dbbd_cli.model.weights import check_finite
from dbbd_cli.services.results import ExportResult
from dbbd_cli.services.session import find_checkpoint

_SUFFIXES = (".safetensors", ".pth")


def export(target: Path, *, out: Path | None = None, progress: Progress | None = None) -> ExportResult:
    """Write the weights of a checkpoint to one file, without optimizer, history and random state.

    A network that was divided among processes is put together.

    Args:
        target: a run folder, meaning its best model, or a checkpoint inside one.
        out: the new file, whose name ends with .safetensors or .pth (a state dict); None: next to the checkpoint.
        progress: receives a warning if a damaged checkpoint is skipped; nothing is shown by default.

    Raises:
        ConfigError: the file exists already, or has another suffix.
        CheckpointError: there is no usable checkpoint.
        DiskError: the file cannot be written.
    """
    if out is not None:
        _check_file(out)
    path, checkpoint = find_checkpoint(target.resolve(), BEST, progress or Silent())
    file = out or path.with_suffix(".safetensors")
    _check_file(file)
    config = checkpoint["config"]
    try:
        # Contiguous, and none of them a part of another.
        weights = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in checkpoint["module"].items()
        }
        epoch, task = len(TrainState.from_plain(checkpoint["state"]).history), str(config["task"])
        about = {"format": "pt", "dbbd_version": __version__, "epoch": str(epoch), "config": json.dumps(config)}
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # the file may contain anything
        raise CheckpointError(f"{path} is not a usable checkpoint", hint="use another one of the run") from error
    check_finite(weights, path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as opened:
            if file.suffix == ".pth":
                torch.save(weights, opened)
            else:
                opened.write(save(weights, about))
    except (OSError, RuntimeError) as error:  # of PyTorch, if a write failed
        reason = reason_of(error)
        raise DiskError(f"{file} cannot be written: {reason}", hint=f"{repair_of(error)}, and try again") from error
    return ExportResult(
        checkpoint=path, task=task, epoch=epoch, tensors=len(weights), size_mb=state_bytes(weights) / 2**20,
        file=file,
    )  # fmt: skip


def _check_file(file: Path) -> None:
    if file.suffix not in _SUFFIXES:
        raise ConfigError(f"--out: {file} does not end with {' or '.join(_SUFFIXES)}", hint="choose another name")
    if os.path.lexists(file):
        raise ConfigError(f"{file} exists already", hint="remove it, or choose another file with --out")
