"""Where prepared data is kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(configured: str | None) -> Path:
    """The folder of `data.cache_dir`; without one `$DBBD_CACHE_DIR`, or the platform's place for caches."""
    if chosen := configured or os.environ.get("DBBD_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "dbbd" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dbbd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbd"
