"""Configurations of runs of segmentation that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dbbd_cli.config.load import Override
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.segmentation.config import SegmentationConfig


@pytest.fixture
def tiny_segmentation(tmp_path: Path) -> Callable[..., SegmentationConfig]:
    """Return a function that creates a configuration; keyword arguments override settings."""

    def make(**changes: object) -> SegmentationConfig:
        values: dict[str, object] = {
            "run.runs_dir": str(tmp_path / "runs"),
            "run.device": "cpu",
            "run.plots": False,
            "run.log_every_steps": 1,
            "data.synthetic_points": 1000,
            "data.max_depth": 2,
            "loss.point_samples": 256,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        if "data.path" in values:
            del values["data.synthetic_points"]
        overrides = [Override(key, value, "test") for key, value in values.items()]
        base = yaml.safe_load(shipped_configs()["smoke_segmentation"].read_text())
        if "model.weights" in values:
            del base["model"]  # sizes are those of the weights
        config = config_from_mapping(base, overrides, origin="test", new_data=True)
        assert isinstance(config, SegmentationConfig)
        return config

    return make
