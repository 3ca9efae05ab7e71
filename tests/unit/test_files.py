from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbbd_cli.files import remove_strays, temporary_path, write_text


def left_by_a_dead_process(path: Path) -> Path:
    code = "import sys, pathlib, dbbd_cli.files as f; print(f.temporary_path(pathlib.Path(sys.argv[1])))"
    return Path(
        subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout[:-1]
    )


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    strays = [left_by_a_dead_process(tmp_path / name) for name in ("ckpt.pth", "dbbd")]
    strays[0].write_text("half")
    strays[1].mkdir()
    (strays[1] / "listener").write_text("")
    others = [tmp_path / name for name in ("ckpt.pth", "mine.tmp", "x.12-0123abcd.tmp", "x.12.tmp")]
    in_use = temporary_path(tmp_path / "history.jsonl")
    for path in [*others, in_use]:
        path.write_text("kept")
    remove_strays(tmp_path)
    assert set(tmp_path.iterdir()) == {*others, in_use}


def test_a_run_folder_is_not_removed_whatever_it_is_called(tmp_path: Path) -> None:
    run = left_by_a_dead_process(tmp_path / "20260101-000000-run")
    run.mkdir()
    (run / "ckpt.pth").write_text("kept")
    draft = left_by_a_dead_process(tmp_path / ".run")
    draft.mkdir()
    remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == [run]


def test_a_number_that_another_process_has_now_protects_nothing(tmp_path: Path) -> None:
    stray = temporary_path(tmp_path / "ckpt.pth")
    stray.write_text("half")
    os.utime(stray, (1, 1))  # written long before this process began
    remove_strays(tmp_path)
    assert not stray.exists()


def test_what_another_machine_writes_stays_for_a_week(tmp_path: Path) -> None:
    new, old = (tmp_path / f"ckpt.pth.999999999-{'0' * 8}-0123456{digit}.tmp" for digit in "78")
    for path in (new, old):
        path.write_text("half")
    os.utime(old, (1, 1))
    remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    link = left_by_a_dead_process(tmp_path / "dbbd")
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
