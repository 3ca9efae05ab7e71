"""Temporary files and folders, each locked by the process that creates it, so that leftovers are recognized.

A killed process leaves its files behind, and the next process removes those without a lock. The lock (flock) is on the
file or folder itself, and the system releases it however the process ends; clocks and process IDs are less reliable.
If locks do not work, as on some network file systems, everything is kept.
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
"""Prefixes of temporary folders: run folders in preparation, and the folders of data workers."""
_LOCAL_DISKS = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "overlay"),
    *("vfat", "exfat", "ntfs", "ntfs3", "hfsplus", "apfs"),
}
"""File systems that only one machine can use at a time."""
_MOUNTS = Path("/proc/self/mounts")
_ATTEMPTS = 100
_SECONDS_BETWEEN = 0.02
"""Seconds between attempts: the process that is removing the folder may be waiting for CPU time."""
_held: dict[Path, int] = {}
"""Open descriptors of the files and folders that this process holds; closing one releases its lock."""


def temporary_path(path: Path) -> Path:
    """Return a unique name for a file or folder that will be renamed to `path`.

    A fixed name could already be taken, by a link that points elsewhere.
    """
    return path.with_name(f"{path.name}.{os.getpid()}-{_machine()}-{secrets.token_hex(4)}.tmp")


def final_name(name: str) -> str:
    """Return the name to which a file under a temporary name will be renamed; any other name unchanged."""
    return _TEMPORARY.sub("", name)


def temporary_file(path: Path) -> Path:
    """Create an empty file that will be renamed to `path`, and hold it until `discard`.

    Raises:
        OSError: it cannot be created.
    """
    for _ in range(_ATTEMPTS):
        temporary = temporary_path(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if _hold(temporary, descriptor):
            return temporary
    raise OSError(f"{path} cannot be written: another process repeatedly deletes it")


def temporary_link(path: Path, target: Path) -> Path:
    """Create a hard link to a file, or a copy where hard links do not work, and hold it until `discard`.

    Args:
        path: the file.
        target: the path to which the link will be renamed.

    Raises:
        OSError: it cannot be created.
    """
    second = temporary_path(target)
    _hold(second, os.open(path, os.O_RDONLY), path)  # before the link exists: both names are one file
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
    """Release a temporary file, and remove it if it has not been renamed."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    release(temporary)


def hold_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder named by `temporary_path` if it is missing, and hold it until `release`.

    Raises:
        OSError: it cannot be created.
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
    raise OSError(f"{folder} cannot be created: another process repeatedly deletes it")


def release(temporary: Path) -> None:
    """Release the file or folder held under a name, if any."""
    if (descriptor := _held.pop(temporary, None)) is not None:
        os.close(descriptor)


def _hold(temporary: Path, descriptor: int, path: Path | None = None) -> bool:
    """Hold an open file or folder; return False if another process has removed it as a leftover."""
    if sys.platform == "win32":  # an open file could not be renamed
        os.close(descriptor)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # locks do not work here; `remove_strays` will keep the file
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


def _release_in_child() -> None:
    """Release everything in a forked process: the locks must end with the parent."""
    for descriptor in list(_held.values()):
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def remove_strays(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes have left in a folder."""
    with suppress(OSError):
        for path in folder.glob("*.tmp"):
            if found := _TEMPORARY.search(path.name):
                with suppress(OSError):
                    _remove_if_free(path, int(found[1]), found[2])


def _remove_if_free(path: Path, process: int, machine: str) -> None:
    status = path.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    if stat.S_ISLNK(status.st_mode):  # never created by this module
        path.unlink()
        return
    if not stat.S_ISREG(status.st_mode) and not (is_folder and path.name.startswith(_OWN_FOLDERS)):
        return  # a run folder is never removed, whatever its name
    if machine != _machine() and not _is_on_local_disk(path):
        return  # from another machine, whose locks may not be visible here
    if sys.platform == "win32":
        import psutil

        if not psutil.pid_exists(process):
            _remove(path, is_folder)
        return
    # On network file systems only files open for writing can be locked.
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_NONBLOCK
    descriptor = os.open(path, flags | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is held, or if locks do not work
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
    """Return an ID of this boot of this machine: its processes, even in containers, see each other's locks."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        import uuid

        name = f"{uuid.getnode():x}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _is_on_local_disk(path: Path) -> bool:
    """Return whether only this machine can write there, so that files of "another" are its own from before a reboot.

    False if unknown.
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
