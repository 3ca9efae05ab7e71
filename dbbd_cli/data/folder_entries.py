"""Entries of data folders that are not data: system files, and files in unsupported formats."""

from __future__ import annotations

from collections.abc import Mapping

from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted

_SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",  # Synology: thumbnails
        "#recycle",  # Synology
        "#snapshot",  # Synology
        "@tmp",  # Synology
        "@recycle",  # QNAP
        "@recently-snapshot",  # QNAP
        "$recycle.bin",  # Windows
        "system volume information",  # Windows
        "recycler",  # Windows XP
        "recycled",  # Windows 98
        "found.000",  # Windows: files recovered by chkdsk
        "__macosx",  # zip archives made by macOS: resource forks
        "network trash folder",  # macOS, on shared drives
        "temporary items",  # macOS, on shared drives
        "lost+found",  # Linux file systems
        "__pycache__",
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})


def is_system_entry(name: str) -> bool:
    """Return whether a file or folder of this name was created by a system or program, and is never data.

    This includes names that begin with a dot: `._x` and `.AppleDouble` of macOS, `.ipynb_checkpoints` of Jupyter.
    """
    lowered = name.lower()
    return lowered.startswith(".") or lowered in _SYSTEM_FOLDERS or lowered in _SYSTEM_FILES


def warn_of_unread(suffixes: Mapping[str, int], what: str, progress: Progress) -> None:
    """Warn about files in unsupported formats; `--quiet` does not hide warnings.

    Args:
        suffixes: number of files by suffix, with its dot and in lower case.
        what: kind of file in the singular, such as "image".
        progress: receives the warning.
    """
    if suffixes:
        total = sum(suffixes.values())
        verb = "was" if total == 1 else "were"
        progress.warn(f"{counted(total, what)} in unsupported formats {verb} skipped: {by_suffix(suffixes)}.")


def by_suffix(suffixes: Mapping[str, int]) -> str:
    """Return the number of files of each suffix, such as "2 .nef, 1 .psd"."""
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(suffixes.items()))
