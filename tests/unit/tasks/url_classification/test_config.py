"""The settings of URL classification: the source follows from the path, and rules name what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.url_classification.config import UrlClassificationConfig

HERE = {"task": "url_classification"}


def config(**data: Any) -> UrlClassificationConfig:
    return UrlClassificationConfig.model_validate({**HERE, "data": data})


def test_a_path_implies_a_table() -> None:
    assert config().data.source == "synthetic"
    assert config(path="urls.csv").data.source == "urls"


def test_a_path_of_shards_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="shards are read by task image_classification only"):
        config(path="a-{00..09}.tar")


@pytest.mark.parametrize(
    "data",
    [{"source": "urls"}, {"source": "synthetic", "path": "urls.csv"}, {"source": "folder"}, {"urls": {"www": 1}}],
)
def test_settings_that_do_not_go_together_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**data)


def test_what_says_nothing_about_a_site_is_removed_and_hosts_are_kept_apart_by_default() -> None:
    data = config().data
    assert data.split.group == "host"
    cleaning = {"scheme": "strip", "www": "strip", "host_case": "lower", "default_port": "strip"}
    assert data.urls.model_dump() == {**cleaning, "empty_path": "keep"}


@pytest.mark.parametrize("name", ["qr_url", "smoke_url"])
def test_shipped_configurations_load(name: str) -> None:
    loaded = load_config(str(shipped_configs()[name]))
    assert isinstance(loaded, UrlClassificationConfig)
    assert Path(str(shipped_configs()[name])).is_file()
