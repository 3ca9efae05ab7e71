"""A run on scenes with changed labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from unit.tasks.dbbd.evaluations import relabel

Make = Callable[..., DbbdConfig]


@pytest.fixture
def folder_run(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> Callable[..., Path]:
    def make(change: Callable[[str, np.ndarray], np.ndarray | None], splits: dict[str, int] | None = None) -> Path:
        root = scene_folder(splits)
        relabel(root, change)
        return train(tiny_point_config(data__path=str(root), training__epochs=1)).run

    return make
