"""A run on shards behind URLs survives a server that fails, and needs it no longer once the pixels are cached."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer
from program import TINY, environment, only_run, run, start, without
from tars import write_shards

pytest.importorskip("aiohttp")

PATTERN = "a-{00..02}.tar?signature=sesame"
NAMES = ("/a-00.tar", "/a-01.tar", "/a-02.tar")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    write_shards(tmp_path / "www", (17, 24, 9))
    with FileServer(tmp_path / "www") as server:
        yield server


def options(server: FileServer) -> list[str]:
    tiny = without(TINY["image_classification"], "data.sample_per_class")
    return ["train", *tiny, "--set", f"data.path={server.url(PATTERN, user='ali:baba@')}", "--epochs", "2"]


def test_a_run_starts_when_the_server_is_back_and_resumes_without_it(server: FileServer, tmp_path: Path) -> None:
    env = environment(DBBD_CACHE_DIR=str(tmp_path / "cache"))
    server.breaks["/a-01.tar"] = -1
    code, out, err = run(*options(server), folder=tmp_path, env=env)
    assert code == 3
    assert f"{server.url('a-01.tar')} cannot be read after 4 attempts" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*"))
    server.breaks.clear()
    code, out, err = run(*options(server), folder=tmp_path, env=env)
    assert code == 0, err
    assert {name: count for name, count in server.downloads().items() if name != "/a-01.tar"} == {
        "/a-00.tar": 1,
        "/a-02.tar": 1,
    }
    assert len(json.loads((only_run(tmp_path) / "splits.json").read_text())["samples"]) == 50
    log = (only_run(tmp_path) / "run.log").read_text()
    server.shutdown()
    server.socket.close()
    code, resumed, err = run("resume", str(only_run(tmp_path)), "--epochs", "3", folder=tmp_path, env=env)
    assert code == 0, err
    for text in (out, log, err, resumed):
        assert "sesame" not in text
        assert "baba" not in text


def test_two_processes_download_each_shard_once(server: FileServer, tmp_path: Path) -> None:
    env = environment(DBBD_CACHE_DIR=str(tmp_path / "cache"))
    code, _, err = run(*options(server), "--nproc", "2", folder=tmp_path, env=env)
    assert code == 0, err
    assert server.downloads() == dict.fromkeys(NAMES, 1)
    assert len(json.loads((only_run(tmp_path) / "splits.json").read_text())["samples"]) == 50


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_ctrl_c_ends_a_command_that_waits_for_a_server(server: FileServer, tmp_path: Path, method: str) -> None:
    server.hangs = method
    process = start(*options(server), folder=tmp_path, env=environment(DBBD_CACHE_DIR=str(tmp_path / "cache")))
    while process.poll() is None and not all(server.requests[method, name] for name in NAMES):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)  # the connections are given up only after a minute
    assert process.returncode == 130, err
    assert not list(tmp_path.glob("cache/remote-*.tar"))
