"""What is done for a new run before PyTorch is loaded, which takes seconds: settings and data are checked first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.files import write_text
from dbbd_cli.core.paths import leave_missing_folder
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache import fallback_note
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.runs.folder import SPLITS, check_run_folder
from dbbd_cli.tasks.registry import get_task


def prepare_run(config: TaskConfig, progress: Progress) -> tuple[TaskConfig, Manifest]:
    """Checks what a new run needs and makes its manifest.

    Returns:
        The configuration with absolute paths, and the samples with their splits.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    config = with_absolute_paths(config)
    leave_missing_folder()
    check_run_folder(Path(config.run.runs_dir), config.run.name)
    if config.run.device not in ("auto", "cpu") or config.run.precision == "fp16":
        # Only PyTorch knows what this machine can do, and the data may take long.
        from dbbd_cli.engine.runtime import choose_runtime

        choose_runtime(config.run.device, config.run.precision)
    weights = config.model.weights
    if weights not in ("none", "default") and not os.path.isfile(weights):  # noqa: PTH113 - a Path raises where its name is too long
        raise CheckpointError(
            f"model.weights: {printable(weights)} does not exist", hint="check the path, or set it to none"
        )
    tell_of_cache(config, progress)
    return config, get_task(config.task).make_manifest(config, progress)


def manifest_of_run(folder: Path, config: TaskConfig, digest: object, progress: Progress) -> Manifest:
    """The list of samples of a run. If it is lost, and the data is synthetic, it is rebuilt and stored.

    Raises:
        CheckpointError: it is missing or damaged, and cannot be rebuilt as it was.
    """
    path, lost = folder / SPLITS, None
    try:
        manifest = Manifest.load(path)
        if manifest.digest() == digest:
            return manifest
    except CheckpointError as error:
        lost = error
    if config.is_synthetic:
        rebuilt = get_task(config.task).make_manifest(config, progress)
        if rebuilt.digest() == digest:
            what = "is not that of the run" if lost is None else "is damaged" if path.exists() else "is missing"
            progress.warn(f"{path} {what}. It was rebuilt from the settings and matches the checkpoint.")
            with suppress(OSError):  # the folder may be read-only
                write_text(path, rebuilt.to_json())
            return rebuilt
    if lost is not None:
        raise lost
    return manifest


def tell_of_cache(config: TaskConfig, progress: Progress) -> None:
    """Says so if prepared data is not kept in the usual folder."""
    if note := fallback_note(config.data.cache_dir):
        progress.line(printable(note))


def with_absolute_paths(config: TaskConfig) -> TaskConfig:
    """The configuration with paths that hold from any working directory.

    Raises:
        ConfigError: the home of an unknown user is meant.
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
    try:
        return str(Path(path).expanduser().resolve())
    except FileNotFoundError:  # the current folder has been removed
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"{printable(path)}: {getattr(error, 'strerror', None) or error}", hint="write the path in full"
        ) from error
