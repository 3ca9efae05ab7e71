"""How paths and commands are shown to a person who may want to copy them."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path


def shown_path(path: Path) -> str:
    """The path as a person would type it here: relative where it is under the current folder."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and change the name
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def command_line(*words: str) -> str:
    """The words as one would type them in a shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def resume_command(folder: Path, *options: str) -> str:
    """What to type in order to go on with the run in `folder`."""
    return command_line("dbbd", "resume", shown_path(folder), *options)
