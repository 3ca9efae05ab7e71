"""Weights of DBBD outside of any run, such as a checkpoint of the first implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.model.dbbd.weights import sizes_of, weights_in
from dbbd_cli.model.weights import InertObject
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.config import DbbdConfig, DbbdDataConfig
from dbbd_cli.tasks.scene_config import FEATURE_CHANNELS


def config_for_weights(
    content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
) -> DbbdConfig | None:
    """Infer the configuration of a network from its weights; see `Task.config_for_weights`.

    Raises:
        ConfigError: the settings do not fit the weights.
    """
    sizes = sizes_of(weights_in(content, path) or {})
    if sizes is None:
        return None
    feature_dim = sizes.pop("feature_dim")
    base = _own_settings(content) if settings is None else settings
    model = base["model"] if isinstance(base.get("model"), Mapping) else {}
    values = {**base, "model": {**model, **sizes, "weights": str(path.resolve())}}
    config = config_from_mapping(values, overrides, origin=path.name, new_data=True)
    assert isinstance(config, DbbdConfig)
    if config.data.feature_dim != feature_dim:
        raise ConfigError(
            f"{path} was trained on {feature_dim} features per point, and data.features gives "
            f"{config.data.feature_dim}: {', '.join(config.data.features)}",
            hint=_features_hint(feature_dim),
        )
    return config


def _features_hint(feature_dim: int) -> str:
    """The choices of `data.features` with this number of channels."""
    names = tuple(FEATURE_CHANNELS)
    choices = [
        f"[{','.join(chosen)}]"
        for number in range(1, len(names) + 1)
        for chosen in combinations(names, number)
        if DbbdDataConfig(features=list(chosen)).feature_dim == feature_dim
    ]
    if not choices:
        return f"no choice of data.features gives {feature_dim}: these weights need data that dbbd does not read"
    return f"set the features that it was trained on: --set data.features={' or '.join(choices)}"


def _own_settings(content: object) -> dict[str, Any]:
    """The settings stored in a checkpoint of either implementation, or the defaults.

    Unless this tool wrote them, the scenes come from a folder.
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
"""Settings of the first implementation that affect an evaluation, and the corresponding settings here.

Sizes are inferred from the weights.
"""
