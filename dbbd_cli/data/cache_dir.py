"""Where prepared data is kept between runs."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from dbbd_cli.files import read_file, write_text

MARK = "dbbd-cache.txt"


def cache_folder(configured: str | None) -> Path:
    """The folder of `data.cache_dir`; without one `$DBBD_CACHE_DIR`, or the platform's place for caches."""
    if chosen := configured or os.environ.get("DBBD_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "dbbd" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dbbd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbd"


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
