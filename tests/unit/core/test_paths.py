"""Commands shown on the terminal can be copied into a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dbbd_cli.core.paths import command_line, is_url, resume_command, shown_url, shown_value, without_secrets
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


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("s3://bucket/a-{0..9}.tar", "s3://bucket/a-{0..9}.tar"),
        ("https://ali:ba@ba@host:80/a@b.tar?token=sesame#x", "https://host:80/a@b.tar"),
        ("HTTPS://user@host", "HTTPS://host"),
        ("/a/b?c#d.tar", "/a/b?c#d.tar"),
        ("C:/x@y.tar", "C:/x@y.tar"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(path: str, shown: str) -> None:
    assert shown_url(path) == shown
    assert is_url(path) == ("://" in path)


def test_urls_in_texts_are_shown_without_what_may_be_secret() -> None:
    text = "dbbd train --set data.path=https://ali:baba@host/a.tar?token=sesame and 's3://b/c?x' fail"
    shown = "dbbd train --set data.path=https://host/a.tar and 's3://b/c' fail"
    assert without_secrets(text) == shown
    assert shown_value(text) == shown[:40]
