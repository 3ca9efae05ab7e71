from __future__ import annotations

import errno
import os
from pathlib import Path

from dbbd_cli.files import repair_of, write_text


def test_a_file_that_is_too_large_needs_a_higher_limit_and_a_full_disk_needs_space() -> None:
    assert repair_of(OSError(errno.EFBIG, os.strerror(errno.EFBIG))) == (
        "raise the limit for the size of a file (ulimit -f)"
    )
    for error in (OSError(errno.ENOSPC, "No space left on device"), None):
        assert repair_of(error) == "free some space"


def test_a_file_is_written_whole_and_leaves_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "zwei ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
