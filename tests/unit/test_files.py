from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbbd_cli.files import remove_strays, temporary_path, write_text


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    pid = dead_process()
    strays = [tmp_path / f"ckpt.pth.{pid}-0123abcd.tmp", tmp_path / f"dbbd.{pid}-0123abcd.tmp"]
    strays[0].write_text("half")
    strays[1].mkdir()
    (strays[1] / "listener").write_text("")
    others = [tmp_path / name for name in ("ckpt.pth", "mine.tmp", f"x.{pid}-0123abc.tmp", f"x.{pid}.tmp")]
    in_use = temporary_path(tmp_path / "history.jsonl")
    for path in [*others, in_use]:
        path.write_text("kept")
    remove_strays(tmp_path)
    assert set(tmp_path.iterdir()) == {*others, in_use}


def test_a_number_that_another_process_has_now_protects_nothing(tmp_path: Path) -> None:
    stray = tmp_path / f"ckpt.pth.{os.getpid()}-0123abcd.tmp"
    stray.write_text("half")
    os.utime(stray, (1, 1))  # written long before this process began
    remove_strays(tmp_path)
    assert not stray.exists()


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    link = tmp_path / f"dbbd.{dead_process()}-0123abcd.tmp"
    try:
        link.symlink_to(tmp_path / "precious")
    except OSError:
        pytest.skip("links cannot be made here")
    remove_strays(tmp_path)
    assert not link.is_symlink()
    assert (tmp_path / "precious" / "file").exists()


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_strays(tmp_path / "none")


def test_a_file_is_written_whole_and_leaves_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "zwei ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
