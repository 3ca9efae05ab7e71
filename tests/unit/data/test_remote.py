"""Remote files are downloaded once, completely or not at all, and errors do not repeat what is secret in a URL."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data import remote
from dbbd_cli.data.remote import download, list_remote_folder, local_copy, remote_files

pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "www").mkdir()
    for name in ("a.tar", "b.tar", "c.tar"):
        (tmp_path / "www" / name).write_bytes(name.encode() * 50_000)
    with FileServer(tmp_path / "www") as server:
        yield server


def copies(cache: Path) -> list[str]:
    return sorted(path.name[40:] for path in cache.iterdir() if not path.name.startswith("dbbd-cache"))


@pytest.mark.parametrize("heads", [True, False])
def test_files_are_downloaded_once(server: FileServer, tmp_path: Path, heads: bool) -> None:
    server.heads = heads
    files = remote_files([server.url(name) for name in ("a.tar", "b.tar", "c.tar")])
    before = sum(server.downloads().values())
    for _ in range(2):
        download(files, tmp_path / "cache", Silent())
    assert sum(server.downloads().values()) - before == 3
    assert [file.copy_in(tmp_path / "cache").read_bytes() for file in files] == [
        name.encode() * 50_000 for name in ("a.tar", "b.tar", "c.tar")
    ]
    assert copies(tmp_path / "cache") == ["a.tar", "b.tar", "c.tar"]


def test_a_file_that_has_changed_is_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    first = local_copy(server.url("a.tar"), tmp_path / "cache", Silent())
    assert local_copy(server.url("a.tar"), tmp_path / "cache", Silent()) == first
    (server.folder / "a.tar").write_bytes(b"new")
    assert local_copy(server.url("a.tar"), tmp_path / "cache", Silent()).read_bytes() == b"new"
    (server.folder / "a.tar").write_bytes(b"old")
    os.utime(server.folder / "a.tar", (10**9, 10**9))  # what the server says of its version
    assert local_copy(server.url("a.tar"), tmp_path / "cache", Silent()).read_bytes() == b"old"


def test_broken_connections_are_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.breaks["/a.tar"] = remote.ATTEMPTS - 1
    copy = local_copy(server.url("a.tar"), tmp_path / "cache", Silent())
    assert copy.read_bytes() == (server.folder / "a.tar").read_bytes()


def test_a_download_that_fails_leaves_only_complete_files_and_continues_later(
    server: FileServer, tmp_path: Path
) -> None:
    server.breaks["/b.tar"] = -1
    files = remote_files([server.url(name) for name in ("a.tar", "b.tar")])
    with pytest.raises(DataError, match=r"http://127.0.0.1:\d+/b.tar cannot be read after 4 attempts: ") as caught:
        download(files, tmp_path / "cache", Silent())
    assert "files that were downloaded are kept" in caught.value.hint
    assert copies(tmp_path / "cache") == ["a.tar"]
    del server.breaks["/b.tar"]
    download(files, tmp_path / "cache", Silent())
    assert server.downloads()["/a.tar"] == 1
    assert copies(tmp_path / "cache") == ["a.tar", "b.tar"]


def test_a_file_of_another_size_than_announced_is_not_used(server: FileServer, tmp_path: Path) -> None:
    files = remote_files([server.url("a.tar")])
    (server.folder / "a.tar").write_bytes(b"short")
    with pytest.raises(DataError, match="after 4 attempts: 5 of 250,000 bytes were received"):
        download(files, tmp_path / "cache", Silent())
    assert copies(tmp_path / "cache") == []


def test_a_server_that_is_down_is_named(server: FileServer, tmp_path: Path) -> None:
    files = remote_files([server.url("a.tar")])
    server.shutdown()
    server.socket.close()
    for ask in (lambda: download(files, tmp_path / "cache", Silent()), lambda: remote_files([server.url("a.tar")])):
        with pytest.raises(DataError, match=r"/a.tar cannot be read after 4 attempts: .*[Cc]onnect"):
            ask()


@pytest.mark.parametrize(
    ("status", "message", "attempts"),
    [
        (404, "a.tar does not exist", 1),
        (403, "a.tar cannot be read: access is denied", 1),
        (401, "a.tar cannot be read: access is denied", 1),
        (503, "a.tar cannot be read after 4 attempts: 503, message='Service Unavailable'", 4),
    ],
)
def test_what_a_server_refuses_is_said_without_secrets(
    server: FileServer, status: int, message: str, attempts: int
) -> None:
    server.refuses["/a.tar"] = status
    with pytest.raises(DataError) as caught:
        remote_files([server.url("a.tar?token=sesame", user="aladdin:lamp@")])
    error = caught.value
    assert f"http://127.0.0.1:{server.server_port}/{message}" in error.message
    assert not any(secret in error.message for secret in ("sesame", "aladdin", "lamp"))
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert server.requests["HEAD", "/a.tar"] == attempts


def test_a_full_disk_is_a_disk_error(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = remote_files([server.url("a.tar")])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskError, match="cannot be written: 0 MB needed, 0 MB free"):
        download(files, tmp_path / "cache", Silent())


def test_processes_that_need_the_same_file_download_it_once(server: FileServer, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(local_copy(server.url("a.tar"), tmp_path / "cache", Silent())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert server.downloads() == {"/a.tar": 1}


def test_headers_that_the_user_has_configured_are_sent(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.config import conf

    server.token = "sesame"
    with pytest.raises(DataError, match="access is denied"):
        local_copy(server.url("a.tar"), tmp_path / "cache", Silent())
    monkeypatch.setitem(conf, "http", {"headers": {"Authorization": "sesame"}, "client_kwargs": {"trust_env": True}})
    copy = local_copy(server.url("a.tar"), tmp_path / "cache", Silent())
    assert copy.read_bytes() == (server.folder / "a.tar").read_bytes()


def test_folders_are_listed(server: FileServer) -> None:
    assert list_remote_folder(server.url()) == [server.url(name) for name in ("a.tar", "b.tar", "c.tar")]


def test_names_of_copies_are_harmless(server: FileServer, tmp_path: Path) -> None:
    (server.folder / "x y\u00df.tar").write_bytes(b"x")
    copy = local_copy(server.url("x%20y%C3%9F.tar?a=../../b"), tmp_path / "cache", Silent())
    assert (copy.parent, copy.name[40:], copy.read_bytes()) == (tmp_path / "cache", "x_y_.tar", b"x")


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("nothing://x/a.tar", "nothing://x/a.tar: the protocol nothing is not supported", "use one of http, https, s3"),
        ("file:///x/a.tar", "file:///x/a.tar: the protocol file is not supported", "use one of http, https, s3"),
        ("simplecache::http://x/a.tar", "the protocol simplecache::http is not supported", "use one of"),
        ("s3://x/a.tar", "the package that reads s3:// is not installed", r'pip install "dbbd-cli\[s3\]"'),
        ("gs://x/a.tar", "the package that reads gs:// is not installed", r'pip install "dbbd-cli\[gcs\]"'),
        ("hf://x/a.tar", "the package that reads hf:// is not installed", r'pip install "dbbd-cli\[hf\]"'),
        ("http://x/a.tar", "the package that reads http:// is not installed", r'pip install "dbbd-cli\[remote\]"'),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, url: str, message: str, hint: str) -> None:
    from fsspec.registry import _registry

    for name in ("s3fs", "gcsfs", "huggingface_hub", "aiohttp"):
        monkeypatch.setitem(sys.modules, name, None)
    for protocol in ("s3", "gs", "hf"):
        monkeypatch.delitem(_registry, protocol, raising=False)
    with pytest.raises(DataError, match=message) as caught:
        remote_files([url])
    assert re.match(hint, caught.value.hint)
