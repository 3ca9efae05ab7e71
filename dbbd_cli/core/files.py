"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from dbbd_cli.core.limits import TOO_MANY_FILES, open_files_limit
from dbbd_cli.core.temporary import discard, temporary_file

_LONGEST_LINE = 1 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def best_effort_lock(path: Path) -> Iterator[None]:
    """Holds a lock file that is gone afterwards, for work that may be done twice: it only should not be.

    Whoever opened the file just before holds a lock on one that is no more, while another makes it anew. What both then
    make must be the same and take its place whole.
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
    """Removes the files of passing locks that nobody holds: their processes were killed."""
    from filelock import FileLock, Timeout

    for path in folder.glob("*.lock"):
        with suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    # Not with Path.exists, which raises where a name is too long.
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110


def repair_of(error: BaseException | None) -> str:
    """What to do about a file that could not be written; an unknown reason is taken for a full disk."""
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    if number == errno.EFBIG:
        return "raise the limit for the size of a file (ulimit -f)"
    if number in TOO_MANY_FILES:
        return f"raise the limit on open files ({open_files_limit()})"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable"
    return "free some space" if number in _FULL else "fix the cause"


def can_be_made(folder: Path) -> bool:
    """Whether a folder can be written to, or created if it is missing."""
    existing = nearest_existing(folder)
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)  # noqa: PTH112 - as above


def private_folder(name: str) -> Path:
    """A private folder of this user in the system's temporary folder, created if it is missing.

    Any user can write to the temporary folder, so a file or folder of this name may belong to an attacker.

    Raises:
        OSError: it cannot be created, or others can write to it.
    """
    import tempfile

    if os.name != "posix":  # the folder of temporary files is the user's own
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(errno.EPERM, "it is not a folder of this user alone", str(folder))
    return folder


def replace_file(source: Path, target: Path) -> None:
    """Renames `source` to `target`, replacing it, and makes the rename last through a power cut."""
    source.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file through a temporary one, so that a reader sees the old content or the new, never a part."""
    temporary = temporary_file(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(temporary, path)
    finally:
        discard(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def read_file(path: Path, limit: int = 1 << 26) -> bytes:
    """The whole content of a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe or a device, which could be read without end.
    """
    require_regular(path)
    size = path.stat().st_size
    if size > limit:  # a file of holes has any size, and takes no room until it is read
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {limit:,} are read", str(path))
    return path.read_bytes()


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with U+FFFD where it is not UTF-8.

    A line of more than a megabyte is the last one, cut off: this program writes none.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device, which could be read without end.
    """
    require_regular(path)
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            yield line.decode("utf-8", errors="replace")
            if len(line) == _LONGEST_LINE:
                return


def open_to_append(path: Path) -> TextIO:
    """Opens a text file at its end.

    A file with other names, as in a hard-linked copy (`cp -al`), is replaced by a copy first: what is appended must not
    appear in the others.

    Raises:
        OSError: it is a link, which could lead anywhere, or cannot be written.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and links are not followed", str(path))
    require_regular(path)
    if path.exists() and path.stat().st_nlink > 1:
        _copy_in_place(path)
    return path.open("a", encoding="utf-8", newline="\n")


def _copy_in_place(path: Path) -> None:
    """Replaces a file by a copy of itself."""
    temporary = temporary_file(path)
    try:
        shutil.copyfile(path, temporary)
        replace_file(temporary, path)
    finally:
        discard(temporary)


def require_regular(path: Path) -> None:
    """Raises OSError where there is something else than a regular file: opening a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
