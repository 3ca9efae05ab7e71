"""How problems with a user's files are worded, the same for folders and tables."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable

UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, which a terminal would obey, breaks of lines, and lone surrogates (names that are not UTF-8)."""


_MOST_DETAILS = 10


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are."""
    more = len(problems) - _MOST_DETAILS
    return [*problems[:_MOST_DETAILS], *([f"and {more:,} more"] if more > 0 else [])]


def why(error: Exception) -> str:
    """The reason that an error of the operating system gives, in lower case and without the path."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def unreadable(path: Path, setting: str, error: Exception) -> DataError:
    """The error for a path from the configuration that cannot be opened.

    Args:
        path: what could not be opened.
        setting: the setting that it comes from, such as data.path.
        error: what opening it raised.
    """
    if not isinstance(error, FileNotFoundError):
        return DataError(f"{path} cannot be opened: {why(error)}", hint=f"check {setting} and the rights to the path")
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        siblings = []
    near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings)]
    hint = f"did you mean {printable(' or '.join(near))}?" if near else f"set {setting} to a path that exists"
    return DataError(f"{path} does not exist", hint=hint)


def scan_folder(path: Path, setting: str) -> list[os.DirEntry[str]]:
    """The entries of a folder that a setting names.

    Raises:
        DataError: it is missing, no folder, or closed to this user.
    """
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except NotADirectoryError as error:
        raise DataError(f"{path} is a file, not a folder", hint=f"set {setting} to a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, setting, error) from error
