"""Weights outside of any run, such as a checkpoint of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.model.weights import load_tensors
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.registry import get_task, task_names


def open_bare_weights(
    path: Path, *, config: str | None, overrides: Sequence[Override], progress: Progress
) -> tuple[TaskConfig, Manifest, int]:
    """Find the task that recognizes the weights, and list its samples.

    Args:
        path: the file.
        config: a YAML file or shipped name; None: the settings in the file, or the defaults.
        overrides: settings that replace those of the configuration, such as the location of the samples.
        progress: shows the listing of the samples.

    Returns:
        The configuration, the samples with their splits, and the number of epochs that the weights were trained for,
        0 if unknown.

    Raises:
        CheckpointError: no task recognizes the weights, or the file is unsafe.
        ConfigError: the configuration does not match the weights, or does not say where the samples are.
    """
    content = load_tensors(path, objects=True)
    names, settings = task_names(), None
    if config is not None:
        chosen = load_config(config)
        names, settings = [chosen.task], to_plain(chosen)
    for name in names:
        found = get_task(name).config_for_weights(content, path, settings, overrides)
        if found is not None:
            prepared, manifest = prepare_run(found, progress)
            return prepared, manifest, _epochs(content)
    if config is not None:
        raise ConfigError(
            f"--config: the task {names[0]} does not recognize the weights in {path}",
            hint="name a configuration of another task, or omit --config",
        )
    raise CheckpointError(
        f"{path} is in no run folder, and no task recognizes its weights",
        hint="pass a run folder, or a .pth file inside one",
    )


def _epochs(content: object) -> int:
    if not isinstance(content, Mapping):
        return 0
    state = content.get("state")
    history = state.get("history") if isinstance(state, Mapping) else None
    epoch = len(history) if isinstance(history, list) else content.get("epoch")
    return epoch if type(epoch) is int and 0 <= epoch <= 10**9 else 0
