"""Commands shown on the terminal can be copied into a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dbbd_cli.core.paths import command_line, resume_command
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


def test_a_path_is_shown_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resume_command(tmp_path / "runs" / "a b", "--epochs", "3") == "dbbd resume 'runs/a b' --epochs 3"
    assert resume_command(tmp_path.parent / "x") == f"dbbd resume {tmp_path.parent / 'x'}"
