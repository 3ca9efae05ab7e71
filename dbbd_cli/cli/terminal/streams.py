"""What the standard streams can show: colors, control codes, characters beyond ASCII."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from dbbd_cli.core.errors import DiskError


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches the stream on a terminal that understands control codes."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def colored(stream: TextIO) -> bool:
    """Whether to color what goes to the stream: on a terminal, unless `NO_COLOR` is set."""
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
    """Writes one or more lines to standard output. A closed pipe (`dbbd ... | head -1`) is not an error.

    Raises:
        DiskError: it cannot be written, for example because the disk is full.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_unwritten(sys.stdout)
    except OSError as error:
        from dbbd_cli.core.files import repair_of

        drop_unwritten(sys.stdout)
        raise DiskError(
            f"standard output cannot be written: {error.strerror}",
            hint=f"{repair_of(error).capitalize()}, or redirect it elsewhere.",
        ) from error


def open_closed_streams() -> None:
    """Connects standard streams that are closed, as some schedulers leave them, to the null device.

    Otherwise the next file that is opened would get the descriptor of the stream, and receive what libraries and child
    processes write to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


@contextmanager
def best_effort(stream: TextIO) -> Iterator[None]:
    """Drops what cannot be written to the stream: that must not end the work.

    The pipe may be closed, the disk full, or a signal handler may print while a line is being written (a RuntimeError,
    "reentrant call").
    """
    try:
        yield
    except OSError:
        drop_unwritten(stream)
    except RuntimeError:
        pass


def flush_at_exit() -> None:
    """Drops what the standard streams cannot write; Python would try again at exit, and end with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            drop_unwritten(stream)


def drop_unwritten(stream: TextIO) -> None:
    """Empties the buffer of a stream that cannot be written.

    Otherwise the next flush would fail; PyTorch flushes before it starts a process that loads batches.
    """
    with suppress(OSError, ValueError, RuntimeError):  # ValueError: it is closed, or has no number
        number = stream.fileno()
        nowhere, itself = os.open(os.devnull, os.O_WRONLY), os.dup(number)
        try:
            os.dup2(nowhere, number)
            stream.flush()
        finally:
            os.dup2(itself, number)
            os.close(nowhere)
            os.close(itself)
