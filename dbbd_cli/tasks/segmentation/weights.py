"""Take the sizes of the encoder, and what it was trained on, from `model.weights`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbbd_cli.config.sections import Section, to_plain
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.text import printable
from dbbd_cli.model.dbbd.weights import encoder_sizes_of, weights_in
from dbbd_cli.model.weights import load_tensors
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.scene_config import num_channels
from dbbd_cli.tasks.segmentation.config import SegmentationConfig

_OF_DATA = ("features", "max_depth")
_OF_PREPARATION = ("normal_neighbors", "min_region_points")
_OF_HEAD = ("branches", "region_means")
"""What the head gets of regions, as runs of segmentation store it."""
_CHOICES = (*_OF_PREPARATION, *_OF_HEAD)
"""Settings that may differ from those of the weights."""


def with_encoder_of(config: SegmentationConfig, path: Path) -> SegmentationConfig:
    """The configuration with the encoder of a checkpoint.

    Raises:
        CheckpointError: the file contains no encoder, or cannot be read.
        ConfigError: a setting of the user contradicts it.
    """
    content = load_tensors(path, objects=True)
    sizes = encoder_sizes_of(weights_in(content, path) or {})
    if sizes is None:
        raise CheckpointError(
            f"model.weights: {path} contains no encoder of DBBD", hint="use a run of dbbd or of segmentation"
        )
    feature_dim = sizes.pop("feature_dim")
    saved = content.get("config") if isinstance(content, Mapping) else None
    values: Mapping[str, Any] = saved if isinstance(saved, Mapping) and saved.get("task") else {}
    model, data = (part if isinstance(part := values.get(name), Mapping) else {} for name in ("model", "data"))
    found = {
        "model": {
            "branches": "both",  # of a run of dbbd, which has pretrained both
            **{key: model[key] for key in (*config.model.encoder_sizes, *_OF_HEAD) if key in model},
            **sizes,
        },
        "data": {key: data[key] for key in (*_OF_DATA, *_OF_PREPARATION) if key in data},
    }
    found["model"].pop("gradient_checkpointing", None)
    problems, plain = [], to_plain(config)
    for section, settings in found.items():
        own: Section = getattr(config, section)
        for key, value in settings.items():
            if key not in own.model_fields_set:
                plain[section][key] = value
            elif plain[section][key] != value and key not in _CHOICES:
                problems.append(f"{section}.{key} is {plain[section][key]}, but {printable(str(value))} in the weights")
    if problems:
        raise ConfigError(
            f"settings contradict model.weights, {path}",
            details=problems,
            hint="leave them out: they are taken from it",
        )
    result = config_from_mapping(plain, origin=path.name)
    assert isinstance(result, SegmentationConfig)
    if num_channels(result.data.features) != feature_dim:
        raise ConfigError(
            f"the encoder of {path} was trained on {feature_dim} features per point, and data.features gives "
            f"{num_channels(result.data.features)}: {', '.join(result.data.features)}",
            hint="set the features that it was trained on with data.features",
        )
    return result
