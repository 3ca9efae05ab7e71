"""Files and folders under temporary names: whoever makes one holds it, and what nobody holds is left over.

A process that is killed leaves them behind, and the next one removes them. Whether their process still lives is told by
a lock (flock) on the file or folder itself, which the system lets go of however the process ends; neither clocks nor
the numbers of processes say anything about it. Where locks do not work, such as on some network file systems, nothing
can be told, and everything is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.(\d{1,10})-([0-9a-f]{8})-[0-9a-f]{8}\.tmp$")
_OWN_FOLDERS = (".", "dbbd.")
"""How the names of folders begin that are made under such a name: drafts of run folders, and those of workers."""
_LOCAL_DISKS = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "overlay"),
    *("vfat", "exfat", "ntfs", "ntfs3", "hfsplus", "apfs"),
}
"""File systems that one machine alone uses at a time."""
_MOUNTS = Path("/proc/self/mounts")
_ATTEMPTS = 100
_SECONDS_BETWEEN = 0.02
"""Seconds from one attempt to the next: a process that is removing the folder may be waiting for a processor."""
_held: dict[Path, int] = {}
"""Open descriptors of what this process holds. Closing one lets go of it."""


def temporary_path(path: Path) -> Path:
    """A name for a file or folder that is to become `path`, and that nobody else has.

    What lies in the folder under a fixed name could be a link that leads elsewhere.
    """
    return path.with_name(f"{path.name}.{os.getpid()}-{_machine()}-{secrets.token_hex(4)}.tmp")


def final_name(name: str) -> str:
    """The name that a file under a temporary name is to have in the end; any other name as it is."""
    return _TEMPORARY.sub("", name)


def temporary_file(path: Path) -> Path:
    """Makes an empty file that is to become `path`, and holds it until `discard`.

    Raises:
        OSError: it cannot be made.
    """
    for _ in range(_ATTEMPTS):
        temporary = temporary_path(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _hold(temporary, descriptor):
            return temporary
    raise OSError(f"{path} cannot be written: others remove every file at once")


def temporary_link(path: Path, target: Path) -> Path:
    """Makes a second name for a file, or a copy where there are no hard links, and holds it until `discard`.

    Args:
        path: the file.
        target: what the new name is to become.

    Raises:
        OSError: it cannot be made.
    """
    second = temporary_path(target)
    _hold(second, os.open(path, os.O_RDONLY), path)  # before the name is there: it is one file
    try:
        os.link(path, second)
    except OSError:
        discard(second)
        second = temporary_file(target)
        try:
            shutil.copyfile(path, second)
            with second.open("rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            discard(second)
            raise
    return second


def discard(temporary: Path) -> None:
    """Lets go of a file of this module, and removes it where it has not become another by then."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    release(temporary)


def hold_folder(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder whose name is one of `temporary_path`, where it is missing, and holds it until `release`.

    Raises:
        OSError: it cannot be made.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_SECONDS_BETWEEN)
        folder.mkdir(mode=mode, exist_ok=True)
        if folder in _held and _is_same(_held[folder], folder):
            return
        release(folder)
        if sys.platform == "win32":  # folders cannot be opened there
            return
        with suppress(FileNotFoundError):
            if _hold(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)):
                return
    raise OSError(f"{folder} cannot be made: others remove it at once")


def release(temporary: Path) -> None:
    """Lets go of what is held under a name; nothing happens where nothing is."""
    if (descriptor := _held.pop(temporary, None)) is not None:
        os.close(descriptor)


def _hold(temporary: Path, descriptor: int, path: Path | None = None) -> bool:
    """Holds an open file or folder; False where it has been removed by another process, which took it for left over."""
    if sys.platform == "win32":  # an open file could not be renamed
        os.close(descriptor)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # no locks here, and `remove_strays` will find the same
        os.close(descriptor)
        return True
    if not _is_same(descriptor, path or temporary):
        os.close(descriptor)
        return False
    _held[temporary] = descriptor
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _let_go_in_child() -> None:
    """A process that is forked holds nothing: what its parent holds must be free once the parent is dead."""
    for descriptor in list(_held.values()):
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def remove_strays(folder: Path) -> None:
    """Removes what processes that were killed have left in a folder under names of this module."""
    with suppress(OSError):
        for path in folder.glob("*.tmp"):
            if found := _TEMPORARY.search(path.name):
                with suppress(OSError):
                    _remove_if_free(path, int(found[1]), found[2])


def _remove_if_free(path: Path, process: int, machine: str) -> None:
    status = path.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    if stat.S_ISLNK(status.st_mode):  # never one of ours
        path.unlink()
        return
    if not stat.S_ISREG(status.st_mode) and not (is_folder and path.name.startswith(_OWN_FOLDERS)):
        return  # nobody's run is removed, whatever it is called
    if machine != _machine() and not _is_on_local_disk(path):
        return  # of another machine, whose locks need not be seen here
    if sys.platform == "win32":
        import psutil

        if not psutil.pid_exists(process):
            _remove(path, is_folder)
        return
    # On network file systems only what is open for writing can be locked.
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_NONBLOCK
    descriptor = os.open(path, flags | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held, and where there are no locks
        if _is_same(descriptor, path):
            _remove(path, is_folder)
    finally:
        os.close(descriptor)


def _remove(path: Path, is_folder: bool) -> None:
    if is_folder:
        shutil.rmtree(path)
    else:
        path.unlink()


@cache
def _machine() -> str:
    """Stands for this machine since it was started: what its processes lock, all others of them see.

    Containers are on the machine that they run on.
    """
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        import uuid

        name = f"{uuid.getnode():x}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_on_local_disk(path: Path) -> bool:
    """Whether this machine alone can write there, so that what is of another is of this one before it was restarted.

    False where nothing tells.
    """
    place, kind = "", ""
    with suppress(OSError, ValueError):
        folder = os.path.realpath(path.parent)
        for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
            _, mounted, its_kind, *_ = line.split(" ")
            mounted = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), mounted)
            if len(mounted) >= len(place) and os.path.commonpath([mounted, folder]) == mounted:
                place, kind = mounted, its_kind
    return kind in _LOCAL_DISKS
