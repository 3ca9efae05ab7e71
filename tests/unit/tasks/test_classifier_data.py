"""The samples of a classifier are listed where its configuration says they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from tars import write_shards

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.progress import Silent
from dbbd_cli.services.preparation import with_absolute_paths
from dbbd_cli.tasks.classifier_data import list_samples


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBBD_CACHE_DIR", str(tmp_path / "cache"))


def test_a_table_of_urls_may_be_remote(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "list.csv").write_text("url,label\nhttps://a.example,good\nhttps://b.example,bad\n")
    with FileServer(tmp_path / "www") as server:
        config = with_absolute_paths(tiny_config(data__path=server.url("list.csv")))
        assert config.data.source == "urls"
        assert [each.key for each in list_samples(config, Silent()).candidates] == [
            "https://b.example",
            "https://a.example",
        ]


@pytest.mark.parametrize("name", ["s/a-01.tar", "s/a-{00..02}.tar"])
def test_tar_files_are_shards(tiny_config: Callable[..., Any], tmp_path: Path, name: str) -> None:
    write_shards(tmp_path / "s")
    config = tiny_config(data__path=f"{tmp_path}/{name}")
    assert config.data.source == "shards"
    assert list_samples(config, Silent()).kind == "shards"


def test_urls_of_tar_files_are_shards(tiny_config: Callable[..., Any]) -> None:
    url = "https://host/a-{00..02}.tar?signature=x.csv"
    config = with_absolute_paths(tiny_config(data__path=url))
    assert (config.data.source, config.data.path) == ("shards", url)


def test_folders_and_tables_of_files_cannot_be_remote(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(data__path="https://host/pictures")
    assert "no URL, because source is folder; URLs are read by urls and shards" in "\n".join(caught.value.details)
