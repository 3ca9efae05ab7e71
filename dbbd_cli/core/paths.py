"""How paths and commands are shown to a person who may want to copy them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from dbbd_cli.core.text import printable


def shown_path(path: Path) -> str:
    """The path as a person would type it here: relative if it is under the current folder, unless that is the root."""
    try:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and change the name
        here = Path.cwd()
        # `leave_missing_folder` goes to the root folder, where the person's shell is not.
        return str(path if here == Path(here.anchor) else absolute.relative_to(here))
    except (ValueError, FileNotFoundError):  # elsewhere, or the current folder has been removed
        return str(path)


def current_folder_is_gone() -> bool:
    """Whether the current folder has been removed."""
    try:
        os.getcwd()  # noqa: PTH109 - the call itself fails
    except FileNotFoundError:
        return True
    return False


def leave_missing_folder() -> None:
    """Changes to the root folder if the current folder has been removed; for when all paths are absolute.

    Otherwise oneMKL, which PyTorch loads, would end the process.
    """
    if current_folder_is_gone():
        os.chdir(Path(__file__).anchor)  # a folder that is always there


def command_line(*words: str) -> str:
    """The words as one would type them in a shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """The word as bash, zsh and ksh read it; characters that a terminal would not show as escapes."""
    if printable(word) == word:
        return shlex.quote(word)
    spelt = word.replace("\\", "\\\\").replace("'", "\\'")
    spelt = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) & 255:02x}", spelt)  # no UTF-8
    return f"$'{printable(spelt)}'"


def resume_command(folder: Path, *options: str) -> str:
    """What to type in order to go on with the run in `folder`."""
    shown = shown_path(folder)
    return command_line("dbbd", "resume", f"./{shown}" if shown.startswith("-") else shown, *options)
