"""Weights of DBBD that belong to no run, such as a checkpoint of the first implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override, config_from_mapping, load_config
from dbbd_cli.config.point_pretraining import PointPretrainingConfig
from dbbd_cli.config.schema import to_plain
from dbbd_cli.data.split import Manifest
from dbbd_cli.errors import CheckpointError, ConfigError
from dbbd_cli.model.dbbd_pretraining import sizes_of
from dbbd_cli.model.safe_load import load_tensors
from dbbd_cli.progress import Progress
from dbbd_cli.services.preparation import prepare_run


@dataclass(frozen=True)
class BareWeights:
    """What is needed to use a file of weights.

    Attributes:
        config: the configuration; `model.weights` is the file.
        manifest: the scenes and their splits, made now.
        epoch: epochs that the weights were trained for, 0 where the file does not say.
    """

    config: PointPretrainingConfig
    manifest: Manifest
    epoch: int


def open_bare_weights(
    path: Path, *, config: str | None, overrides: Sequence[Override], progress: Progress
) -> BareWeights:
    """Reads the sizes of a network from its weights, and makes the manifest of the scenes.

    Args:
        path: the file.
        config: configuration of task `dbbd`, a YAML file or a shipped name; else that of the file, or the defaults.
        overrides: settings that replace those of the configuration, such as where the scenes are.
        progress: told of every scene.

    Raises:
        CheckpointError: the file holds no weights of DBBD, or is not safe to read.
        ConfigError: the configuration does not fit, or no scenes are named.
    """
    content = load_tensors(path)
    sizes = sizes_of(content)
    if sizes is None:
        raise CheckpointError(
            f"{path} is in no run folder, and holds no weights of DBBD",
            hint="give a run folder, a checkpoint in one, or a file with encoder_state_dict and loss_fn_state_dict",
        )
    feature_dim = sizes.pop("feature_dim")
    base = _own_settings(content) if config is None else _plain(config)
    model = base["model"] if isinstance(base.get("model"), Mapping) else {}
    values = {**base, "model": {**model, **sizes, "weights": str(path.resolve())}}
    chosen = config_from_mapping(values, overrides, origin=config or path.name, new_data=True)
    assert isinstance(chosen, PointPretrainingConfig)
    if chosen.data.feature_dim != feature_dim:
        raise ConfigError(
            f"{path} was trained on {feature_dim} features per point, and data.features gives "
            f"{chosen.data.feature_dim}: {', '.join(chosen.data.features)}",
            hint="name the features that it was trained on, such as --set data.features=[normals,colour]",
        )
    prepared, manifest = prepare_run(chosen, progress)
    assert isinstance(prepared, PointPretrainingConfig)
    return BareWeights(prepared, manifest, _epochs(content))


def _own_settings(content: object) -> dict[str, Any]:
    """The settings that a checkpoint of this tool carries; else those by default, with the scenes from a folder."""
    config = content.get("config") if isinstance(content, Mapping) else None
    if isinstance(config, Mapping) and config.get("task") == "dbbd":
        return dict(config)
    # A folder, not made-up rooms, is what is meant where nothing is said.
    return {"task": "dbbd", "data": {"source": "folder"}}


def _epochs(content: object) -> int:
    """The epochs that a checkpoint says it was trained for; 0 where it says nothing."""
    if not isinstance(content, Mapping):
        return 0
    state = content.get("state")
    history = state.get("history") if isinstance(state, Mapping) else None
    epoch = len(history) if isinstance(history, list) else content.get("epoch")
    return epoch if type(epoch) is int and 0 <= epoch <= 10**9 else 0


def _plain(config: str) -> dict[str, Any]:
    loaded = load_config(config)
    if not isinstance(loaded, PointPretrainingConfig):
        raise ConfigError(f"--config: {config} is of the task {loaded.task}", hint="name one of the task dbbd")
    return to_plain(loaded)
