"""The standard streams: what they can show, and what happens when they are closed or full."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from dbbd_cli.core.errors import DiskError


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that understands control codes."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def colored(stream: TextIO) -> bool:
    """Whether to write colors to the stream: on a terminal, unless `NO_COLOR` is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def columns(stream: TextIO) -> int | None:
    """Width of the terminal; None if the stream is not a terminal, so that lines may have any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def tolerate_any_text() -> None:
    """Make the standard streams write characters that they cannot encode as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def write_result(text: str) -> bool:
    """Write one or more lines to standard output. A closed pipe (`dbbd ... | head -1`) is not an error.

    Returns:
        Whether anybody still reads the output.

    Raises:
        DiskError: standard output cannot be written, for example because the disk is full.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_unwritten(sys.stdout)
        return False
    except OSError as error:
        from dbbd_cli.core.files import repair_of

        drop_unwritten(sys.stdout)
        raise DiskError(
            f"standard output cannot be written: {error.strerror}",
            hint=f"{repair_of(error)}, or redirect it elsewhere",
        ) from error
    return True


def open_closed_streams() -> None:
    """Connect standard streams that are closed, as some batch systems leave them, to the null device.

    Otherwise the next file that is opened would get the descriptor of the stream, and with it the output of libraries
    and child processes.
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
    """Drop what cannot be written to the stream, rather than end the command.

    The pipe may be closed or the disk full, or a signal handler may print while a line is being written (a
    RuntimeError, "reentrant call").
    """
    try:
        yield
    except OSError:
        drop_unwritten(stream)
    except RuntimeError:
        pass


def flush_at_exit() -> None:
    """Drop what the standard streams cannot write; Python would try again at exit and end with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            drop_unwritten(stream)


def drop_unwritten(stream: TextIO) -> None:
    """Empty the buffer of a stream that cannot be written.

    Otherwise the next flush would fail; PyTorch flushes before it starts a worker process.
    """
    with suppress(OSError, ValueError, RuntimeError):  # ValueError: closed, or without a descriptor
        number = stream.fileno()
        nowhere, itself = os.open(os.devnull, os.O_WRONLY), os.dup(number)
        try:
            os.dup2(nowhere, number)
            stream.flush()
        finally:
            os.dup2(itself, number)
            os.close(nowhere)
            os.close(itself)
