"""Weights of DBBD that belong to no run, such as a checkpoint of the first implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from dbbd_cli.config.load import Override, config_from_mapping, load_config
from dbbd_cli.config.schema import to_plain
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.pickles.objects import InertObject
from dbbd_cli.model.dbbd.pretraining import pretraining_weights, sizes_of
from dbbd_cli.model.weights import load_tensors
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.tasks.dbbd.config import PointDataConfig, PointPretrainingConfig


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
    content = load_tensors(path, objects=True)
    sizes = sizes_of(pretraining_weights(content, path) or {})
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
            hint=_features_hint(feature_dim),
        )
    prepared, manifest = prepare_run(chosen, progress)
    assert isinstance(prepared, PointPretrainingConfig)
    return BareWeights(prepared, manifest, _epochs(content))


def _features_hint(feature_dim: int) -> str:
    """The choices of features that have as many channels."""
    names = get_args(get_args(PointDataConfig.model_fields["features"].annotation)[0])
    choices = [
        f"[{','.join(chosen)}]"
        for number in range(1, len(names) + 1)
        for chosen in combinations(names, number)
        if PointDataConfig(features=list(chosen)).feature_dim == feature_dim
    ]
    if not choices:
        return f"no choice of data.features gives {feature_dim}: these weights need data that dbbd does not read"
    return f"name the features that it was trained on: --set data.features={' or '.join(choices)}"


def _own_settings(content: object) -> dict[str, Any]:
    """The settings stored in a checkpoint of this tool or of the first implementation, or else the defaults.

    Without settings of this tool, the scenes are those of a folder.
    """
    config = content.get("config") if isinstance(content, Mapping) else None
    if isinstance(config, Mapping) and config.get("task") == "dbbd":
        return dict(config)
    values: dict[str, Any] = {"task": "dbbd", "data": {"source": "folder"}}
    first = config.settings if isinstance(config, InertObject) else config
    settings: Mapping[Any, Any] = first if isinstance(first, Mapping) else {}
    for name, (section, key) in _FIRST_SETTINGS.items():
        if isinstance(value := settings.get(name), (str, int, float)):
            values.setdefault(section, {})[key] = value
    return values


_FIRST_SETTINGS = {
    "encoder_pooling": ("model", "pooling"),
    "aggregator_mode": ("model", "aggregation"),
    "temperature": ("loss", "temperature"),
    "alpha": ("loss", "region_weight"),
    "beta": ("loss", "point_weight"),
    "point_num_samples": ("loss", "point_samples"),
    "batch_size": ("training", "batch_size"),
    "max_hierarchy_depth": ("data", "max_depth"),
}
"""The first implementation's settings that determine what its weights compute, and the corresponding settings here.

The sizes are inferred from the weights; paths and device of the training do not matter for an evaluation.
"""


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
