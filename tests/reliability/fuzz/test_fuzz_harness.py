"""The coverage-guided fuzzer finds planted defects, and keeps what it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="the coverage-guided fuzzer is not installed")

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzz(*arguments: str, folder: Path) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, str(FUZZ), *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_planted_defects_are_found(tmp_path: Path) -> None:
    assert fuzz("--self-check", folder=tmp_path) == (0, "planted defects: 8 of 8 found\n")


def test_a_finding_is_kept_and_counted_and_can_be_repeated(tmp_path: Path) -> None:
    code, output = fuzz("says_two_lines", "crashes", "--cases", "3000", "--out", "found", folder=tmp_path)
    assert code == 1
    assert "says_two_lines: BrokenPromiseError" in output
    assert "crashes: ended the process" in output
    (kept,) = (tmp_path / "found").glob("says_two_lines-*")
    code, output = fuzz("--repeat", str(kept), folder=tmp_path)
    assert code == 1
    assert "characters that are not printable: 'one\\ntwo'" in output
