"""A small file system that tests can fill."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@cache
def why_not() -> str:
    """Return why no file system can be mounted here; empty if one can."""
    if not hasattr(os, "geteuid") or os.geteuid() or not Path("/proc/mounts").exists():
        return "needs to be root on Linux, to mount a small file system"
    # In a separate mount namespace, the attempt leaves nothing behind.
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return "" if tried.returncode == 0 else "mounting is not allowed here"


@contextmanager
def small_disk(folder: Path, size_mb: float) -> Iterator[Path]:
    """Yield a folder on its own file system."""
    folder.mkdir()
    options = f"size={int(size_mb * 1024)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that is ending may still have a file open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    """Make the disk read-only."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def free(disk: Path) -> int:
    """Return the number of bytes that can still be written."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, leave: int) -> None:
    """Write to the file `filler` until at most `leave` bytes are free."""
    with (disk / "filler").open("ab") as file:
        size = file.tell()
        while (extra := free(disk) - leave) > 0:
            try:
                os.posix_fallocate(file.fileno(), size, extra)
            except OSError:  # another process was faster: look again
                continue
            size += extra


def empty(disk: Path) -> None:
    """Free the space again."""
    (disk / "filler").unlink()


def free_and_needed_mb(text: str) -> tuple[float, float]:
    """Return the sizes named in an error."""
    text = " ".join(text.split()).replace(",", "")
    free = re.search(r"([\d.]+) MB is free", text)
    needed = re.search(r"needs about ([\d.]+) MB|they need ([\d.]+) MB", text)
    assert free, text
    assert needed, text
    return float(free[1]), float(needed[1] or needed[2])
