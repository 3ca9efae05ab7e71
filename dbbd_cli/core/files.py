"""Reading and writing files: atomically, and without waiting for what is not a file."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from dbbd_cli.core.limits import TOO_MANY_FILES, open_files_limit
from dbbd_cli.core.temporary import discard, temporary_file

_LONGEST_LINE = 1 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def best_effort_lock(path: Path) -> Iterator[None]:
    """Hold a lock file and remove it afterwards; for work that is wasteful, but not harmful, to do twice.

    A process that opens the lock file just before its removal gets a lock that excludes nobody. The results of both
    processes must then be equal and be put in place atomically.
    """
    from filelock import FileLock

    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # in use, on systems that forbid removing open files
            path.unlink(missing_ok=True)


def remove_free_locks(folder: Path) -> None:
    """Remove the files of `best_effort_lock` that killed processes have left."""
    from filelock import FileLock, Timeout

    for path in folder.glob("*.lock"):
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    # Not Path.exists, which raises if a name is too long.
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110


def repair_of(error: BaseException | None) -> str:
    """Return what to do about a file that could not be written; without an OSError, the disk is assumed to be full."""
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    if number == errno.EFBIG:
        return "raise the limit on the size of a file (ulimit -f)"
    if number in TOO_MANY_FILES:
        return f"raise the limit on open files ({open_files_limit()})"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable"
    return "free some space" if number in _FULL else "fix the cause"


def can_write_to(folder: Path) -> bool:
    """Return whether a folder is writable, or can be created if it is missing."""
    existing = nearest_existing(folder)
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)  # noqa: PTH112 - as above


def private_folder(name: str) -> Path:
    """Return a private folder of this user in the system's temporary folder; create it if it is missing.

    Any user can write to the temporary folder: a file or folder of this name may belong to an attacker.

    Raises:
        OSError: it cannot be created, or others can write to it.
    """
    import tempfile

    if os.name != "posix":  # the temporary folder belongs to the user
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(errno.EPERM, "it is not private to this user", str(folder))
    return folder


def replace_file(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing it, and flush the folder, so that the rename survives a power cut."""
    source.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the context ends without an exception.

    It is flushed to the disk: a reader sees the old content or the new, never a part.
    """
    temporary = temporary_file(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_file(temporary, path)
    finally:
        discard(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and flush it: a reader sees the old content or the new, never a part."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def read_file(path: Path, limit: int = 1 << 26) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe or a device, which could be endless.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > limit:  # a sparse file may have any size, and takes no space until it is read
        raise OSError(errno.EFBIG, f"it has {size:,} bytes (limit {limit:,})", str(path))
    return path.read_bytes()


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, with U+FFFD in place of bytes that are not UTF-8.

    Reading ends with the first megabyte of a longer line, which this program never writes.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device, which could be endless.
    """
    require_regular(path)
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            yield line.decode("utf-8", errors="replace")
            if len(line) == _LONGEST_LINE:
                return


def open_to_append(path: Path) -> TextIO:
    """Open a text file for appending.

    A file with several hard links, as after `cp -al`, is first replaced by a copy: the others must not change.

    Raises:
        OSError: it is a link, which could lead anywhere, or cannot be written.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link, and links are not followed", str(path))
    require_regular(path)
    if path.exists() and path.stat().st_nlink > 1:
        _copy_in_place(path)
    return path.open("a", encoding="utf-8", newline="\n")


def _copy_in_place(path: Path) -> None:
    """Replace a file with a copy of itself."""
    temporary = temporary_file(path)
    try:
        shutil.copyfile(path, temporary)
        replace_file(temporary, path)
    finally:
        discard(temporary)


def require_regular(path: Path) -> None:
    """Raise OSError if the path exists and is not a regular file: opening a pipe would block."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
