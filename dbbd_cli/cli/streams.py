"""What the standard streams can show: colours, control codes, characters beyond ASCII."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches the stream on a terminal that understands control codes."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def coloured(stream: TextIO) -> bool:
    """Whether to colour what goes to the stream: on a terminal, unless `NO_COLOR` is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_unicode(stream: TextIO) -> bool:
    """Whether the stream can carry any character."""
    return (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").startswith("utf")


def columns(stream: TextIO) -> int | None:
    """Width of the terminal; None where the stream is none, so that lines may have any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def tolerate_any_text() -> None:
    """Writes characters that a standard stream cannot encode as escapes, rather than failing on them."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def write_result(text: str) -> None:
    """Writes a line or more to standard output. A reader that has gone (`dbbd ... | head -1`) is no error."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere; else the interpreter would complain about it when it exits.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
