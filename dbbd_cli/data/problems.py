"""Wording of problems with a user's files, shared by folders and tables."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable

UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and lone surrogates (from names that are not UTF-8)."""
_MAX_DETAILS = 10


def shortened(problems: Sequence[str]) -> list[str]:
    """Return the first problems, and a line with the number of the others."""
    more = len(problems) - _MAX_DETAILS
    return [*problems[:_MAX_DETAILS], *([f"and {more:,} more"] if more > 0 else [])]


def short(url: str) -> str:
    """Return a URL, or the first 200 characters of a longer one, for a message."""
    return url if len(url) <= 200 else f"{url[:200]}…"


def why(error: Exception) -> str:
    """Return the reason that an operating-system error gives, without the path, beginning in lower case."""
    reason = getattr(error, "strerror", None) or str(error)
    return reason[:1].lower() + reason[1:]


def unreadable(path: Path, setting: str, error: Exception) -> DataError:
    """Return the error for a path from the configuration that cannot be opened.

    Args:
        path: the path.
        setting: the setting it comes from, such as data.path.
        error: the exception raised on opening it.
    """
    if not isinstance(error, FileNotFoundError):
        return DataError(f"{path} cannot be opened: {why(error)}", hint=f"check {setting} and the permissions")
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        siblings = []
    near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings)]
    hint = f"did you mean {printable(' or '.join(near))}?" if near else f"set {setting} to an existing path"
    return DataError(f"{path} does not exist", hint=hint)


def scan_folder(path: Path, setting: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder named by a setting.

    Raises:
        DataError: it is missing, not a folder, or not readable.
    """
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except NotADirectoryError as error:
        raise DataError(f"{path} is a file, not a folder", hint=f"set {setting} to a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(path, setting, error) from error
