"""Files are written atomically, and an error on writing one comes with a remedy."""

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
        (errno.EFBIG, "raise the limit on the size of a file (ulimit -f)"),
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
        (errno.EMFILE, f"raise the limit on open files ({limits.open_files_limit()})"),
        (errno.ENOENT, "fix the cause"),
    ],
)
def test_the_remedy_depends_on_the_error(number: int, repair: str) -> None:
    assert repair_of(OSError(number, os.strerror(number))) == repair


def test_an_unknown_reason_counts_as_a_full_disk() -> None:
    assert repair_of(None) == "free some space"


def test_a_file_is_replaced_and_no_other_file_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "two ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
