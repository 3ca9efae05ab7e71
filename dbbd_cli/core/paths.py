"""Paths and commands as shown to the user, ready to be copied into a shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.processes import NPROC
from dbbd_cli.core.text import printable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL_IN_TEXT = re.compile(rf"{_URL.pattern}[^\s'\"]+")


def is_url(path: str) -> bool:
    """Return whether a path is a URL, such as `s3://bucket/name`."""
    return _URL.match(path) is not None


def shown_url(path: str) -> str:
    """Return a URL without what may be secret in it: user, password, query and fragment; any other path unchanged."""
    if not is_url(path):
        return printable(path)
    scheme, _, rest = re.split("[?#]", path, maxsplit=1)[0].partition("://")
    host, slash, place = rest.partition("/")
    return printable(f"{scheme}://{host.rpartition('@')[2]}{slash}{place}")


def without_secrets(text: str) -> str:
    """Return a text, such as a command or an error, with `shown_url` in place of each URL."""
    return _URL_IN_TEXT.sub(lambda found: shown_url(found[0]), text)


def shown_value(value: object) -> str:
    """Return the value of a setting for a message: at most 40 characters, without secrets of URLs."""
    return printable(without_secrets(str(value)))[:40]


def shown_path(path: Path) -> str:
    """Return the path as the user would type it: relative if under the current folder, unless that is the root."""
    try:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and change the name
        here = Path.cwd()
        # `leave_removed_folder` goes to the root folder, where the user's shell is not.
        return str(path if here == Path(here.anchor) else absolute.relative_to(here))
    except (ValueError, FileNotFoundError):  # not under it, or the current folder has been removed
        return str(path)


def removed_folder_error() -> DiskError:
    """The error for a path that is relative to a folder that was removed."""
    return DiskError("the current folder no longer exists", hint="change to another folder, or give absolute paths")


def leave_removed_folder(*paths: Path | None) -> None:
    """Change to the root folder if the current folder has been removed, where oneMKL would abort the process.

    Raises:
        DiskError: one of the paths is relative to the removed folder.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        if not all(path is None or path.is_absolute() for path in paths):
            raise removed_folder_error() from None
        os.chdir(Path(__file__).anchor)


def command_line(*words: str) -> str:
    """Return the words as a command for a shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return the word quoted for bash, zsh and ksh, with invisible characters as escapes."""
    if printable(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    escaped = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) & 255:02x}", escaped)  # not UTF-8
    return f"$'{printable(escaped)}'"


def resume_command(folder: Path, *options: str) -> str:
    """Return the command that resumes the run in `folder`, in as many processes as `--nproc` has started."""
    processes = ("--nproc", os.environ[NPROC]) if NPROC in os.environ else ()
    return command_line("dbbd", "resume", shown_path(folder), *options, *processes)
