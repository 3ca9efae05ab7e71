"""A run folder appears complete or not at all, under a new name, and is used by one process at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbbd_cli.core.errors import ConfigError, DiskError, InUseError
from dbbd_cli.runs.folder import CONFIG, ENVIRONMENT, SPLITS, check_run_folder, create_run_folder, is_run_folder, locked


def fill(folder: Path) -> None:
    (folder / SPLITS).write_text("{}")


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _format: "20260131-120000")
    folders = [create_run_folder(tmp_path / "runs", "mine", fill) for _ in range(3)]
    assert [folder.name for folder in folders] == [f"20260131-120000-mine{end}" for end in ("", "-2", "-3")]
    assert all(is_run_folder(folder) for folder in folders)
    assert set((tmp_path / "runs").iterdir()) == set(folders)


def test_a_folder_whose_first_content_cannot_be_written_does_not_appear(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise DiskError("the disk is full")

    with pytest.raises(DiskError, match="the disk is full"):
        create_run_folder(tmp_path, "mine", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../up", "/root", "a/b", ".hidden", "a\nb", "\x1b[31m", "", "con ", "x" * 101, "x.1-00000000-00000000.tmp"]
)
def test_a_name_that_cannot_be_part_of_a_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.name"):
        check_run_folder(tmp_path, name)


def test_a_file_in_place_of_the_parent_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="no folder can be created"):
        check_run_folder(tmp_path / "file" / "runs", "mine")


def test_a_run_folder_is_recognized_without_its_list_of_samples(tmp_path: Path) -> None:
    assert not is_run_folder(tmp_path)
    for name in (CONFIG, ENVIRONMENT):
        (tmp_path / name).write_text("")
    assert is_run_folder(tmp_path)


HOLD = """
import sys
from pathlib import Path
from dbbd_cli.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_locked_folder_is_refused_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    for end in ("terminates", "is killed"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InUseError, match=f"in use by process {process.pid} on "), locked(tmp_path):
            pass
        process.kill() if end == "is killed" else process.stdin.close()
        process.wait()
        process.stdout.close()
        with locked(tmp_path):
            pass
