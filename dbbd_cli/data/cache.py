"""Where prepared data is kept between runs."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.files import can_be_made, private_folder, read_file, write_text

MARK = "dbbd-cache.txt"


def cache_folder(configured: str | None) -> Path:
    """The folder of `data.cache_dir`, or else `$DBBD_CACHE_DIR`, or else the platform's cache folder.

    If the latter cannot be written to, as in a container whose user has no home folder, it is a private folder in the
    system's temporary folder.

    Raises:
        DiskError: no folder can be used.
    """
    if chosen := configured or os.environ.get("DBBD_CACHE_DIR"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 - a Path raises if there is no home
    usual = _usual_folder()
    if usual is not None and can_be_made(usual):
        return usual
    try:
        return private_folder("dbbd")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise DiskError(
            f"there is no folder for prepared data: {where}{error.strerror}",
            hint="name one with --set data.cache_dir=DIR, or in DBBD_CACHE_DIR",
        ) from error


def fallback_note(configured: str | None) -> str:
    """The line to show if the cache folder is in the system's temporary folder; otherwise empty."""
    if configured or os.environ.get("DBBD_CACHE_DIR"):
        return ""
    folder, usual = cache_folder(None), _usual_folder()
    if folder == usual:
        return ""
    why = "there is no home folder" if usual is None else f"{usual} cannot be written to"
    return (
        f"Prepared data is kept in {folder}, because {why}. "
        "To choose a folder, use --set data.cache_dir=DIR or DBBD_CACHE_DIR."
    )


def _usual_folder() -> Path | None:
    """The platform's cache folder; None if it is in the home folder and there is none."""
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dbbd" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "dbbd"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbd"
    except RuntimeError:
        return None


def make_cache_folder(folder: Path) -> None:
    """Makes a folder for caches where there is none, and marks it as one.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_cache_folder(folder):
        write_text(folder / MARK, _mark_of(folder))


def is_cache_folder(folder: Path) -> bool:
    """Whether prepared data was kept in a folder before, by this program on this machine."""
    try:
        return read_file(folder / MARK).decode("utf-8") == _mark_of(folder)
    except (OSError, ValueError):
        return False


def _mark_of(folder: Path) -> str:
    """What stands in the mark: it holds for this very folder, and for none that was copied or unpacked elsewhere."""
    place = os.fsencode(f"{folder.resolve()}\n{folder.stat().st_ino}")
    return (
        "dbbd keeps prepared data in this folder. It can be made again from what it was made of.\n"
        f"{hashlib.sha256(place).hexdigest()}\n"
    )
