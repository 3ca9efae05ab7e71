"""A file that has not changed is not read again; one that has is found, whatever was done to hide it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.images import file_index
from dbbd_cli.data.images.file_index import digests_of
from dbbd_cli.data.images.refs import hash_files

Index = Callable[[], list[str]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"%d" % number)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read; without the two seconds in which changed files do not count as settled."""
    names: list[str] = []

    def hashed(paths: Sequence[str], progress: Progress) -> list[str | OSError]:
        names.extend(Path(path).name for path in paths)
        return hash_files(paths, progress)

    monkeypatch.setattr(file_index, "hash_files", hashed)
    monkeypatch.setattr(file_index, "_SETTLED_NS", -(10**19) // 2)
    return names


def digests(folder: Path, names: Sequence[str] | None = None) -> list[str | OSError]:
    names = names or sorted(path.name for path in folder.iterdir())
    return digests_of([str(folder / name) for name in names], [folder], folder.parent / "cache", Silent())


def test_unchanged_files_are_read_once(folder: Path, read: list[str]) -> None:
    expected = [sha256(b"%d" % number) for number in range(5)]
    assert digests(folder) == expected
    assert len(read) == 5
    assert digests(folder) == expected
    assert digests(folder, ["3.png", "1.png"]) == [expected[3], expected[1]]
    assert len(read) == 5


@pytest.mark.parametrize("time", [10**18, 4 * 10**18], ids=["past", "future"])
def test_a_changed_file_is_read_even_with_its_old_size_and_time(folder: Path, read: list[str], time: int) -> None:
    path = folder / "2.png"
    os.utime(path, ns=(time, time))
    digests(folder)
    path.write_bytes(b"x")
    os.utime(path, ns=(time, time))
    read.clear()
    assert digests(folder)[2] == sha256(b"x")
    assert read == ["2.png"]


def test_a_file_in_the_place_of_another_is_read(folder: Path, read: list[str]) -> None:
    digests(folder)
    (folder / "1.png").replace(folder / "4.png")
    (folder / "new.png").write_bytes(b"new")
    read.clear()
    assert digests(folder) == [sha256(content) for content in (b"0", b"2", b"3", b"1", b"new")]
    assert read == ["4.png", "new.png"]
    read.clear()
    digests(folder)
    assert read == []


def test_missing_files_are_reported_each_time(folder: Path, read: list[str]) -> None:
    names = ["0.png", "missing.png", "1.png"]
    for _ in range(2):
        first, missing, last = digests(folder, names)
        assert isinstance(missing, FileNotFoundError)
        assert [first, last] == [sha256(b"0"), sha256(b"1")]
    assert read == [*names, "missing.png"]


def test_files_that_have_just_been_written_are_read_again(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "_SETTLED_NS", 10**12)  # another change may have the same time
    digests(folder)
    digests(folder)
    assert len(read) == 10


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_damaged_index_is_made_again(folder: Path, read: list[str], content: bytes) -> None:
    expected = digests(folder)
    [index] = (folder.parent / "cache").glob("files-*")
    index.write_bytes(content)
    for _ in range(2):
        assert digests(folder) == expected
    assert len(read) == 10
