"""Commands shown on the terminal can be copied into a shell, even if the current folder is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbbd_cli.core.paths import command_line, leave_missing_folder, resume_command
from dbbd_cli.core.text import printable


@pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "word", ["a", "a b", "it's", "a\nb", "it's \x1b[2J\\x", "\u202eabc", "caf\u00e9", "a\udc80b", "-r", ""]
)
def test_a_shell_reads_the_intended_words(word: str) -> None:
    command = command_line("printf", "%s", word)
    assert printable(command) == command
    said = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert said == word.encode("utf-8", "surrogateescape")


@pytest.mark.skipif(os.name == "nt", reason="the current folder cannot be removed there")
def test_commands_are_shown_and_run_in_a_removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert resume_command(tmp_path / "run") == f"dbbd resume {tmp_path / 'run'}"
    assert resume_command(Path("run")) == "dbbd resume run"
    ended = subprocess.run(
        [sys.executable, "-m", "dbbd_cli", "train", "--config", "smoke_qr"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert ended.returncode == 6
    assert ended.stderr == "Error: the current folder no longer exists\nChange to another one, or give full paths.\n"


def test_a_folder_that_begins_with_a_dash_is_not_taken_for_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resume_command(tmp_path / "-r") == "dbbd resume ./-r"
    assert resume_command(tmp_path / "runs" / "-r", "--epochs", "3") == "dbbd resume runs/-r --epochs 3"


@pytest.mark.skipif(os.name == "nt", reason="the current folder cannot be removed there")
def test_a_removed_current_folder_is_left_for_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    leave_missing_folder()
    assert Path.cwd() == tmp_path / "gone"
    (tmp_path / "gone").rmdir()
    leave_missing_folder()
    assert Path.cwd() == Path(tmp_path.anchor)
    assert resume_command(tmp_path / "run") == f"dbbd resume {tmp_path / 'run'}"
