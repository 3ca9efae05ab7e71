"""Leftovers of killed processes are removed and files of living ones stay, whatever the clocks say."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbbd_cli.core import temporary
from dbbd_cli.core.temporary import (
    discard,
    hold_folder,
    release,
    remove_strays,
    temporary_file,
    temporary_link,
    temporary_path,
)

fcntl = pytest.importorskip("fcntl", reason="Windows has no such locks")
MAKE = """
import os, subprocess, sys, time
from pathlib import Path
from dbbd_cli.core.temporary import hold_folder, temporary_file, temporary_link, temporary_path
folder = Path(sys.argv[1])
(folder / "ckpt.pth").write_text("whole")
temporary_file(folder / "new.pth").write_text("half")
temporary_link(folder / "ckpt.pth", folder / "best_model.pth")
for name in ("dbbd", ".run"):
    hold_folder(path := temporary_path(folder / name))
    (path / "content").write_text("half")
child = None
if sys.argv[2] == "fork":
    reading, writing = os.pipe()
    child = os.fork()
    os.read(reading, 1) if child else os.write(writing, b"x")  # it is running
elif sys.argv[2] == "program":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL).pid
if child != 0:
    print(child, flush=True)
time.sleep(60)
"""
NUM_MADE = 4


@contextmanager
def process_that_holds(folder: Path, child: str = "none") -> Iterator[tuple[subprocess.Popen[str], int | None]]:
    """Start a process that holds files and folders; yields it and the ID of its child process, if any."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(folder), child], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    number = None
    try:
        assert process.stdout is not None
        answer = process.stdout.readline().strip()
        number = None if answer == "None" else int(answer)
        yield process, number
    finally:
        process.kill()
        if number is not None:
            os.kill(number, signal.SIGKILL)  # it may hold the other end of the pipe
        process.communicate()


def left_over(path: Path, *, folder: bool = False, machine: str | None = None) -> Path:
    """Create a temporary file or folder that is not held, named with the ID of a living process."""
    path = temporary_path(path)
    if machine is not None:
        path = path.with_name(re.sub("-[0-9a-f]{8}-", f"-{machine}-", path.name))
    path.mkdir() if folder else path.write_text("half")
    return path


@pytest.mark.parametrize("years", [-50, -1, 0, 1, 50])
def test_files_of_a_living_process_stay_and_those_of_a_dead_one_go_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    seconds = years * 365 * 24 * 3600
    with process_that_holds(tmp_path) as (process, _):
        monkeypatch.setattr(time, "time", lambda now=time.time: now() - seconds)
        before = sorted(tmp_path.rglob("*"))
        assert len([path for path in before if path.suffix == ".tmp"]) == NUM_MADE
        for path in before:
            os.utime(path, (max(0, 1.8e9 + seconds),) * 2)
        remove_strays(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        process.kill()
        process.wait()
        remove_strays(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]
    assert (tmp_path / "ckpt.pth").read_text() == "whole"


@pytest.mark.parametrize("child", ["fork", "program"])
def test_children_of_a_dead_process_hold_nothing(tmp_path: Path, child: str) -> None:
    with process_that_holds(tmp_path, child) as (process, number):
        assert number is not None
        process.kill()
        process.wait()
        os.kill(number, 0)  # it is alive
        remove_strays(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_files_of_a_stopped_process_stay(tmp_path: Path) -> None:
    with process_that_holds(tmp_path) as (process, _):
        process.send_signal(signal.SIGSTOP)
        remove_strays(tmp_path)
        assert len(list(tmp_path.glob("*.tmp"))) == NUM_MADE


def test_the_id_of_a_living_process_alone_protects_nothing(tmp_path: Path) -> None:
    left_over(tmp_path / "ckpt.pth")
    remove_strays(tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_files_with_temporary_names_are_removed(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("ckpt.pth", "mine.tmp", "x.12-0123abcd.tmp", "x.12.tmp")]
    for path in others:
        path.write_text("kept")
    held = temporary_file(tmp_path / "history.jsonl")
    remove_strays(tmp_path)
    assert set(tmp_path.iterdir()) == {*others, held}
    discard(held)
    assert set(tmp_path.iterdir()) == set(others)
    remove_strays(tmp_path / "none")  # not an error


def test_a_run_folder_is_never_removed(tmp_path: Path) -> None:
    run = left_over(tmp_path / "20260101-000000-run", folder=True)
    (run / "ckpt.pth").write_text("kept")
    (left_over(tmp_path / ".run", folder=True) / "ckpt.pth").write_text("half")
    remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == [run]


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    link = temporary_path(tmp_path / "dbbd")
    link.symlink_to(tmp_path / "precious")
    remove_strays(tmp_path)
    assert not link.is_symlink()
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize(
    ("mounts", "kept"),
    [
        ("/dev/sda1 / ext4 rw 0 0\n", False),
        ("/dev/sda1 / ext4 rw 0 0\nserver:/runs {} nfs4 rw 0 0\n", True),
        ("server:/ / nfs rw 0 0\n/dev/sda1 {} xfs rw 0 0\n", False),
        ("server:/ / nfs rw 0 0\n/dev/sda1 {}/other xfs rw 0 0\n", True),
        ("runs / fuse.sshfs rw 0 0\n", True),
        ("/dev/sda1 / ext4 rw 0 0\nshare {} 9p rw 0 0\n", True),
        ("damaged\n", True),
        ("", True),
        (None, True),
    ],
)
def test_files_that_another_machine_may_hold_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str | None, kept: bool
) -> None:
    """On a local disk, they are from this machine before a reboot."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setattr(temporary, "_MOUNTS", tmp_path / "mounts")
    if mounts is not None:
        (tmp_path / "mounts").write_text(mounts.format(str(folder).replace(" ", "\\040")))
    stray = left_over(folder / "ckpt.pth", machine="0" * 8)
    os.utime(stray, (1, 1))
    left_over(folder / "ckpt.pth")  # from this machine, whatever the disk
    remove_strays(folder)
    assert list(folder.iterdir()) == ([stray] if kept else [])


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINTR])
def test_without_working_locks_everything_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", fail)
    made = [left_over(tmp_path / "a"), left_over(tmp_path / "dbbd", folder=True), temporary_file(tmp_path / "b")]
    remove_strays(tmp_path)
    assert set(tmp_path.iterdir()) == set(made)
    discard(made[-1])


def test_a_link_is_held_through_its_file_and_a_copy_through_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    path = tmp_path / "ckpt.pth"
    path.write_text("whole")
    first = temporary_link(path, tmp_path / "best.pth")
    assert first.samefile(path)
    monkeypatch.setattr(os, "link", fail)
    second = temporary_link(path, tmp_path / "best.pth")
    assert not second.samefile(path)
    assert second.read_text() == "whole"
    remove_strays(tmp_path)
    assert set(tmp_path.iterdir()) == {path, first, second}
    for each in (first, second):
        release(each)
    remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_renamed_file_is_not_discarded(tmp_path: Path) -> None:
    new = temporary_file(tmp_path / "a.txt")
    new.write_text("whole")
    new.replace(tmp_path / "a.txt")
    discard(new)
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert not [path for path in temporary._held if path.parent == tmp_path]


def test_a_removed_folder_is_created_and_held_again(tmp_path: Path) -> None:
    folder = temporary_path(tmp_path / "dbbd")
    for _ in range(3):
        hold_folder(folder)
        hold_folder(folder)
        remove_strays(tmp_path)
        assert folder.is_dir()
        folder.rmdir()
    release(folder)
    assert not [path for path in temporary._held if path.parent == tmp_path]


@pytest.mark.parametrize("make", ["file", "folder"])
@pytest.mark.parametrize("how", ["removed", "being removed"])
def test_files_removed_before_they_are_held_are_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, how: str
) -> None:
    flock, calls = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            remove_strays(tmp_path)  # as another process would, taking it for a leftover
            assert not list(tmp_path.iterdir())
            if how == "being removed":
                raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    if make == "file":
        made = temporary_file(tmp_path / "a")
    else:
        hold_folder(made := temporary_path(tmp_path / "dbbd"))
    assert list(tmp_path.iterdir()) == [made]
    remove_strays(tmp_path)
    assert list(tmp_path.iterdir()) == [made]
    release(made)
    remove_strays(tmp_path)
    assert not list(tmp_path.iterdir())


def test_creating_a_folder_waits_for_a_process_that_is_removing_it(tmp_path: Path) -> None:
    folder = temporary_path(tmp_path / "dbbd")
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)  # as `remove_strays` in another process would

    def remove() -> None:
        folder.rmdir()
        os.close(other)

    timer = threading.Timer(0.3, remove)
    timer.start()
    hold_folder(folder)
    timer.join()
    remove_strays(tmp_path)
    assert folder.is_dir()
    release(folder)
