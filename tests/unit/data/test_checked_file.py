"""Every changed byte of a file with checksums is found, and so is the content of another file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data import checked_file
from dbbd_cli.data.checked_file import CheckedRows, append_checksums, size_with_checksums, written_ns

ROW = 5


def file_with_checksums(folder: Path, rows: int) -> Path:
    path = folder / "file"
    path.write_bytes(bytes(range(rows * ROW)))
    append_checksums(path, ROW)
    return path


def undamaged(path: Path, rows: int) -> list[int]:
    """The rows that are read as undamaged, all with the content that was written."""
    try:
        found = CheckedRows(path, rows, ROW)
    except OSError:
        return []
    into = np.empty(ROW, np.uint8)
    good = []
    for row in range(rows):
        if found.read(row, into):
            assert into.tolist() == list(range(row * 5, row * 5 + 5))
            good.append(row)
    return good


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 20])
def test_every_changed_byte_is_found(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_file, "_BLOCK_BYTES", 2 * ROW + 1)
    before = time.time_ns()
    path = file_with_checksums(tmp_path, rows)
    assert path.stat().st_size == size_with_checksums(rows, ROW)
    assert undamaged(path, rows) == list(range(rows))
    assert before <= (written_ns(path, rows, ROW) or 0) <= time.time_ns()
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
        if place < rows * ROW:
            assert undamaged(path, rows) == [row for row in range(rows) if row != place // ROW]
        else:
            assert undamaged(path, rows) == []
            assert written_ns(path, rows, ROW) is None


def test_files_of_another_size_do_not_match(tmp_path: Path) -> None:
    path = file_with_checksums(tmp_path, 5)
    data = path.read_bytes()
    assert undamaged(path, 4) == []
    for other in (data[:-1], data + b"\0", data[:25], b"", bytes(len(data))):
        path.write_bytes(other)
        assert undamaged(path, 5) == []


def test_rows_in_the_place_of_others_are_damaged(tmp_path: Path) -> None:
    path = file_with_checksums(tmp_path, 3)
    data = path.read_bytes()
    path.write_bytes(data[5:10] + data[:5] + data[10:])
    assert undamaged(path, 3) == [2]


def test_the_content_of_another_file_of_the_same_size_does_not_match(tmp_path: Path) -> None:
    path = file_with_checksums(tmp_path, 5)
    other = tmp_path / "other"
    other.write_bytes(bytes(25))
    append_checksums(other, ROW)
    other.replace(path)
    assert undamaged(path, 5) == []


def test_a_file_written_under_a_temporary_name_matches_once_renamed(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.write_bytes(bytes(range(25)))
    append_checksums(temporary, ROW, "name")
    assert undamaged(temporary, 5) == []
    assert undamaged(temporary.rename(tmp_path / "name"), 5) == [0, 1, 2, 3, 4]
