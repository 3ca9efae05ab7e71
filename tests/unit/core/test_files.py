from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dbbd_cli.core import limits
from dbbd_cli.core.files import repair_of, write_text


@pytest.mark.parametrize(
    ("number", "repair"),
    [
        (errno.EFBIG, "raise the limit for the size of a file (ulimit -f)"),
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
        (errno.EMFILE, f"raise the limit on open files ({limits.open_files_limit()})"),
        (errno.ENOENT, "fix the cause"),
    ],
)
def test_what_to_do_about_a_file_that_cannot_be_written(number: int, repair: str) -> None:
    assert repair_of(OSError(number, os.strerror(number))) == repair


def test_a_file_that_cannot_be_written_for_unknown_reasons_needs_space() -> None:
    assert repair_of(None) == "free some space"


def test_a_file_is_written_whole_and_leaves_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "zwei ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
