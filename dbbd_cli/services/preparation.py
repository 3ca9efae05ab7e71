"""Prepare a new run: check settings and data before importing torch, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.paths import is_url, leave_removed_folder, removed_folder_error
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache import fallback_note
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.runs.folder import check_run_folder, is_run_folder
from dbbd_cli.tasks.registry import get_task


def prepare_run(config: TaskConfig, progress: Progress) -> tuple[TaskConfig, Manifest]:
    """Check what a new run needs, and create its manifest.

    Returns:
        The configuration with absolute paths, and the samples with their splits.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    config = with_absolute_paths(config)
    leave_removed_folder()  # only now, because relative paths would be resolved against the root folder
    check_run_folder(Path(config.run.runs_dir), config.run.name)
    if config.run.device not in ("auto", "cpu") or config.run.precision == "fp16":
        # Only PyTorch knows what this machine supports, and preparing the data may take long.
        from dbbd_cli.engine.runtime import choose_runtime

        choose_runtime(config.run.device, config.run.precision)
    config = _with_file_of_weights(config)
    weights = config.model.weights
    if weights not in ("none", "default") and not os.path.isfile(weights):  # noqa: PTH113 - a Path raises where its name is too long
        raise CheckpointError(
            f"model.weights: {printable(weights)} does not exist", hint="check the path, or set it to none"
        )
    report_cache_folder(config, progress)
    task = get_task(config.task)
    config = task.with_weights(config)
    manifest = task.make_manifest(config, progress)
    return task.with_samples(config, manifest, progress), manifest


def _with_file_of_weights(config: TaskConfig) -> TaskConfig:
    """The configuration with the best model in place of a run folder as `model.weights`."""
    folder = config.model.weights
    if folder in ("none", "default") or not os.path.isdir(folder) or not is_run_folder(Path(folder)):  # noqa: PTH112
        return config
    from dbbd_cli.engine.checkpoint.files import BEST, NEWEST  # imports PyTorch

    found = [path for name in (BEST, NEWEST) if (path := Path(folder, name)).is_file()]
    if not found:
        raise CheckpointError(f"model.weights: {folder} has no checkpoint", hint="pass a run that has been trained")
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": str(found[0])})})


def report_cache_folder(config: TaskConfig, progress: Progress) -> None:
    """Report that prepared data is not cached in the usual folder."""
    if note := fallback_note(config.data.cache_dir):
        progress.line(printable(note))


def with_absolute_paths(config: TaskConfig) -> TaskConfig:
    """The configuration with paths that hold from any working directory.

    Raises:
        ConfigError: a path cannot be resolved, such as the home folder of an unknown user.
        DiskError: a path is relative to a folder that has been removed.
    """
    sections: dict[str, Any] = {}
    for key in config.path_settings:
        name, _, field = key.partition(".")
        part = sections.get(name) or getattr(config, name)
        sections[name] = part.model_copy(update={field: _all_absolute(key, getattr(part, field))})
    return config.model_copy(update=sections)


def _all_absolute(key: str, value: str | Mapping[str, str] | None) -> Any:
    if value is None or (key == "model.weights" and value in ("none", "default")):
        return value
    if isinstance(value, str):
        return _absolute(value)
    return {name: _absolute(path) for name, path in value.items()}


def _absolute(path: str) -> str:
    if is_url(path):
        return path
    try:
        return str(Path(path).expanduser().resolve())
    except FileNotFoundError as error:
        raise removed_folder_error() from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"{printable(path)}: {getattr(error, 'strerror', None) or error}", hint="write the path in full"
        ) from error
