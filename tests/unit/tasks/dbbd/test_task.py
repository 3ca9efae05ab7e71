"""The task lists scenes as configured, and says what small mode changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.progress import Silent
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.task import Dbbd


def config_of(**sections: Any) -> Any:
    return config_from_mapping({"task": "dbbd", **sections}, origin="test")


def test_a_folder_source_needs_a_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set") as caught:
        Dbbd().make_manifest(config_of(data={"source": "folder"}), Silent())
    assert "--set data.path=DIR" in caught.value.hint


def test_scenes_come_from_the_folder_or_from_synthetic_rooms(scene_folder: Callable[..., Path]) -> None:
    manifest = Dbbd().make_manifest(config_of(data={"path": str(scene_folder()), "max_train_scenes": 3}), Silent())
    assert manifest.counts() == {"train": 3, "val": 2, "test": 1}
    manifest = Dbbd().make_manifest(config_of(data={"synthetic_scenes": 10}), Silent())
    assert sum(manifest.counts().values()) == 10


def test_notes_name_what_small_mode_changed() -> None:
    config = config_of(small_mode=True, data={"synthetic_scenes": 40}, model={"hidden_dim": 32})
    manifest = Dbbd().make_manifest(config, Silent())
    assert Dbbd().notes(config, manifest) == {
        "Small mode": "fewer scenes, batches of 2, a network of 32 channels, 512 points compared per batch, "
        "no worker processes"
    }
    assert Dbbd().notes(config_of(), manifest) == {}
