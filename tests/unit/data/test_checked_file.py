"""Every changed byte of a file with checksums is found, and so is the content of another file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dbbd_cli.data import checked_file
from dbbd_cli.data.checked_file import append_checksums, checksums_match, size_with_checksums, written_ns


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_file, "BLOCK_BYTES", 10)


def file_with_checksums(folder: Path, size: int) -> Path:
    path = folder / "file"
    path.write_bytes(bytes(range(size)))
    append_checksums(path)
    return path


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", [0, 1, 10, 11, 95, 200])
def test_every_changed_byte_is_found(tmp_path: Path, size: int) -> None:
    before = time.time_ns()
    path = file_with_checksums(tmp_path, size)
    assert path.stat().st_size == size_with_checksums(size)
    assert checksums_match(path, size)
    assert before <= (written_ns(path, size) or 0) <= time.time_ns()
    data = path.read_bytes()
    assert data[:size] == bytes(range(size))
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        assert not checksums_match(path, size)
        if place >= size:
            assert written_ns(path, size) is None


@pytest.mark.usefixtures("blocks")
def test_files_of_another_size_do_not_match(tmp_path: Path) -> None:
    path = file_with_checksums(tmp_path, 25)
    data = path.read_bytes()
    assert not checksums_match(path, 24)
    for other in (data[:-1], data + b"\0", data[:25], b"", bytes(len(data)), data[10:20] + data[:10] + data[20:]):
        path.write_bytes(other)
        assert not checksums_match(path, 25)


@pytest.mark.usefixtures("blocks")
def test_verification_stops_soon_after_the_first_damaged_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_file.os, "cpu_count", lambda: 1)
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    append_checksums(path)
    with path.open("r+b") as file:
        file.write(b"x")
    read: list[int] = []
    crc32 = checked_file.zlib.crc32
    monkeypatch.setattr(checked_file.zlib, "crc32", lambda *data: (read.append(1), crc32(*data))[1])
    assert not checksums_match(path, 10_000)
    assert len(read) < 10


def test_the_content_of_another_file_of_the_same_size_does_not_match(tmp_path: Path) -> None:
    path = file_with_checksums(tmp_path, 25)
    other = tmp_path / "other"
    other.write_bytes(bytes(25))
    append_checksums(other)
    other.replace(path)
    assert not checksums_match(path, 25)
    assert written_ns(path, 25) is None


def test_a_file_written_under_a_temporary_name_matches_once_renamed(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.write_bytes(bytes(25))
    append_checksums(temporary, "name")
    assert not checksums_match(temporary, 25)
    assert checksums_match(temporary.rename(tmp_path / "name"), 25)
