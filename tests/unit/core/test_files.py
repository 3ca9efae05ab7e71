"""Files are written atomically, and an error on writing one comes with a remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dbbd_cli.core import limits
from dbbd_cli.core.files import (
    best_effort_lock,
    open_to_append,
    read_file,
    read_lines,
    remove_free_locks,
    repair_of,
    write_text,
)


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


def test_a_lock_is_gone_afterwards_and_free_locks_of_others_are_removed(tmp_path: Path) -> None:
    (tmp_path / "dead.lock").touch()
    with best_effort_lock(tmp_path / "held.lock"):
        remove_free_locks(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["held.lock"]
    assert not list(tmp_path.iterdir())


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(101))
    assert len(read_file(tmp_path / "a", 101)) == 101
    with pytest.raises(OSError, match=r"it has 101 bytes \(limit 100\)"):
        read_file(tmp_path / "a", 100)


def test_lines_are_read_with_replacement_characters_up_to_one_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\n\xff\n" + b"x" * (1 << 20) + b"y\nlast\n")
    assert list(read_lines(tmp_path / "a")) == ["one\n", "\ufffd\n", "x" * (1 << 20)]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_and_pipes_are_neither_read_nor_appended_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="it is not a regular file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        next(read_lines(tmp_path / "pipe"))
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="it is"):
            open_to_append(tmp_path / name)
    assert not (tmp_path / "target").exists()


def test_appending_does_not_change_hard_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    os.link(tmp_path / "a", tmp_path / "b")
    with open_to_append(tmp_path / "a") as file:
        file.write("two\n")
    assert (tmp_path / "a").read_text() == "one\ntwo\n"
    assert (tmp_path / "b").read_text() == "one\n"
