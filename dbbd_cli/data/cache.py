"""The folder of prepared data: its location, the locks of its files, and the limit on their total size.

Images (`images/cache.py`, `images/file_index.py`), arrays (`array_cache.py`) and copies of remote files (`remote.py`)
share it. Each file is written under a temporary name and renamed when it is complete. The name of prepared data is a
hash of its source, so none is ever out of date; indexes of files are written again when some are new or have changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.files import (
    best_effort_lock,
    can_write_to,
    private_folder,
    read_file,
    remove_free_locks,
    repair_of,
    write_text,
)
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.data.problems import why

MARK = "dbbd-cache.txt"
"""File that marks a folder as a cache of this program."""
_MARK_TEXT = "dbbd keeps prepared data in this folder. You can delete it; it is created again when it is needed."
LIMIT_BYTES = 40 * 1024**3
"""Size above which the least recently used files are removed."""
_FILES = re.compile(
    r"images-.*\.(u8|json)|(files|checked|scene|geometry|shard)-.*\.arrays|remote-.*(?<!\.tmp)(?<!\.lock)"
)
"""Names of the files of the cache; compared with all of them whenever one is added."""


def cache_folder(configured: str | None) -> Path:
    """Return the folder of `data.cache_dir`, `$DBBD_CACHE_DIR`, or the platform's cache folder, in this order.

    If the latter is not writable, as in a container whose user has no home folder, return a private folder in the
    system's temporary folder.

    Raises:
        DiskError: no folder can be used.
    """
    if chosen := configured or os.environ.get("DBBD_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 - a Path raises if there is no home
    default = _default_folder()
    if default is not None and can_write_to(default):
        return default
    try:
        return private_folder("dbbd")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise DiskError(
            f"no folder is available for prepared data: {where}{error.strerror}",
            hint="choose one with --set data.cache_dir=DIR, or in DBBD_CACHE_DIR",
        ) from error


def fallback_note(configured: str | None) -> str:
    """Return the line to show if the cache folder is in the system's temporary folder; otherwise an empty string."""
    if configured or os.environ.get("DBBD_CACHE_DIR"):
        return ""
    folder, default = cache_folder(None), _default_folder()
    if folder == default:
        return ""
    reason = "there is no home folder" if default is None else f"{default} is not writable"
    return (
        f"Prepared data is kept in {folder}, because {reason}. "
        "To choose a folder, use --set data.cache_dir=DIR or DBBD_CACHE_DIR."
    )


def _default_folder() -> Path | None:
    """Return the platform's cache folder; None if it would be in the home folder and there is none."""
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dbbd" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "dbbd"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbd"
    except RuntimeError:
        return None


def is_cache_folder(folder: Path) -> bool:
    """Return whether this program has used the folder as a cache on this machine."""
    try:
        return _identity(folder) in read_file(folder / MARK).decode("utf-8").splitlines()
    except (OSError, ValueError):
        return False


def _identity(folder: Path) -> str:
    """Return a hash that identifies this folder and differs for a copy of it."""
    return hashlib.sha256(os.fsencode(f"{folder.resolve()}\n{folder.stat().st_ino}")).hexdigest()


@contextmanager
def disk_errors(cache_dir: Path) -> Iterator[None]:
    """Turn an `OSError` of the body into a `DiskError` that names the cache folder."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"the cache {cache_dir} cannot be written: {why(error)}",
            hint=f"{repair_of(error)}, or choose another folder with --set data.cache_dir=DIR",
        ) from error


@contextmanager
def entry_lock(path: Path) -> Iterator[None]:
    """Lock a file of the cache while one process makes it and others wait; creates and marks the folder if missing.

    Raises:
        DiskError: the folder or the lock cannot be created.
    """
    with ExitStack() as held:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not is_cache_folder(path.parent):
                write_text(path.parent / MARK, f"{_MARK_TEXT}\n{_identity(path.parent)}\n")
            held.enter_context(best_effort_lock(path.with_suffix(".lock")))
        yield


def mark_used(path: Path) -> None:
    """Record that a file of the cache was used now; its modification time is the time of last use."""
    with suppress(OSError):  # the cache may belong to another user
        os.utime(path)


def remove_leftovers(cache_dir: Path) -> None:
    """Remove what killed processes have left in the cache."""
    remove_strays(cache_dir)
    remove_free_locks(cache_dir)


def make_room(cache_dir: Path, needed: int, keep: Iterable[Path] = ()) -> None:
    """Remove the least recently used files until `needed` more bytes fit within `LIMIT_BYTES`, or none are left.

    Leftovers of killed processes go first. Other processes may do the same at the same time.

    Args:
        cache_dir: folder of the cache.
        needed: bytes that are about to be written.
        keep: files that will be needed, and are not removed.
    """
    remove_leftovers(cache_dir)
    files = []
    for path in cache_dir.iterdir():
        if _FILES.fullmatch(path.name):
            with suppress(OSError):  # another process removed it, or it is unreadable
                status = path.lstat()
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    kept = set(keep)
    for _, size, path in sorted(files):
        if total + needed <= LIMIT_BYTES:
            return
        if path in kept:
            continue
        with suppress(OSError):  # in use, on systems that cannot remove open files
            path.unlink(missing_ok=True)
            total -= size
