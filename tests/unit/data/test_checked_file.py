from __future__ import annotations

import time
from pathlib import Path

import pytest

from dbbd_cli.data import checked_file
from dbbd_cli.data.checked_file import append_checksums, has_checksums, is_intact, size_with_checksums, written_ns


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_file, "BLOCK_BYTES", 10)


def made(folder: Path, size: int) -> Path:
    path = folder / "file"
    path.write_bytes(bytes(range(size)))
    append_checksums(path)
    return path


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("size", [0, 1, 10, 11, 95, 200])
def test_every_changed_byte_is_found(tmp_path: Path, size: int) -> None:
    before = time.time_ns()
    path = made(tmp_path, size)
    assert path.stat().st_size == size_with_checksums(size)
    assert is_intact(path, size)
    assert has_checksums(path)
    assert before <= (written_ns(path, size) or 0) <= time.time_ns()
    data = path.read_bytes()
    assert data[:size] == bytes(range(size))
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        assert not is_intact(path, size)
        if place >= size:
            assert written_ns(path, size) is None


@pytest.mark.usefixtures("blocks")
def test_files_of_another_size_do_not_match(tmp_path: Path) -> None:
    path = made(tmp_path, 25)
    data = path.read_bytes()
    assert not is_intact(path, 24)
    for other in (data[:-1], data + b"\0", data[:25], b"", bytes(len(data)), data[10:20] + data[:10] + data[20:]):
        path.write_bytes(other)
        assert not is_intact(path, 25)
    path.write_bytes(b"")
    assert not has_checksums(path)


@pytest.mark.usefixtures("blocks")
def test_reading_ends_soon_after_the_first_damaged_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_file.os, "cpu_count", lambda: 1)
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    append_checksums(path)
    with path.open("r+b") as file:
        file.write(b"x")
    read: list[int] = []
    crc32 = checked_file.zlib.crc32
    monkeypatch.setattr(checked_file.zlib, "crc32", lambda *data: (read.append(1), crc32(*data))[1])
    assert not is_intact(path, 10_000)
    assert len(read) < 10
