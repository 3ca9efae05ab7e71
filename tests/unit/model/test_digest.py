"""A file with a digest is read by any program, and every change to it is detected."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import IO

import pytest
import torch

from dbbd_cli.model import digest
from dbbd_cli.model.digest import digest_matches, has_digest, is_sparse, save_with_digest

CONTENT = {"weight": torch.arange(50.0), "epoch": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_with_digest(CONTENT, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_written_file_has_a_matching_digest(path: Path) -> None:
    assert has_digest(path)
    assert digest_matches(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    assert comment == b"dbbd sha256 " + hashlib.sha256(path.read_bytes()[: -len(comment) - 2]).hexdigest().encode()
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["weight"], CONTENT["weight"])


def test_every_flipped_bit_is_detected(path: Path) -> None:
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert not digest_matches(path), position


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 78, b"PK" + bytes(200)])
def test_other_files_have_no_digest(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    assert not has_digest(tmp_path / "a.pth")
    assert not digest_matches(tmp_path / "a.pth")


def test_folders_and_missing_files_do_not_match(tmp_path: Path) -> None:
    assert not digest_matches(tmp_path)
    assert not digest_matches(tmp_path / "missing")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace files that are open")
def test_a_file_that_is_replaced_meanwhile_still_matches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_with_digest({**CONTENT, "more": torch.arange(90.0)}, path.with_name("newer.pth"))
    find = digest._digest_at_end

    def replace_after(file: IO[bytes]) -> str | None:
        found = find(file)
        path.with_name("newer.pth").replace(path)
        return found

    monkeypatch.setattr(digest, "_digest_at_end", replace_after)
    assert digest_matches(path)
    assert not path.with_name("newer.pth").exists()


class StoppedError(Exception):
    pass


def stop() -> None:
    raise StoppedError


def test_writing_and_reading_end_with_the_error_of_the_callback(path: Path) -> None:
    with pytest.raises(StoppedError):
        digest_matches(path, stop)
    with pytest.raises(StoppedError):
        save_with_digest(CONTENT, path, stop)
    assert not digest_matches(path)


def test_an_error_of_the_disk_is_raised_as_it_is(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_with_digest(CONTENT, path.parent / "missing" / "a.pth")


def test_a_sparse_file_is_recognized(path: Path) -> None:
    assert not is_sparse(path)
    os.truncate(path, 10**9)
    if path.stat().st_blocks * 512 > 10**8:
        pytest.skip("the file system has no sparse files")
    assert is_sparse(path)
