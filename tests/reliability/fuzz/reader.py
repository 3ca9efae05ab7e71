"""The contract of every reader: a valid result, or the documented error in one printable line."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dbbd_cli.core.errors import DbbdError

SHARED = Path(__file__).parents[3] / ".." / "shared"
"""Real data next to the repository, if available."""

MOST_CHARACTERS = 2000
"""Limit on the length of a message, which includes the path of the file."""

_LINE_BREAKING = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Reader:
    """A part of the program that reads untrusted input.

    Args:
        name: its name in tables.
        read: reads the bytes, directly or as a file in the given empty folder, and raises `BrokenPromiseError` if the
            result contradicts the documentation.
        seeds: returns valid inputs.
        documented: the documented errors, not including their subclasses.
        seal: corrects the checksums in an input, so that the code behind them is reached.
        structured: whether inputs are JSON texts that represent values in memory: only their values are mutated.
    """

    name: str
    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    documented: tuple[type[Exception], ...]
    seal: Callable[[bytes], bytes] | None = None
    structured: bool = False


class BrokenPromiseError(AssertionError):
    """The result of a reader contradicts its documentation."""


def require(holds: object, what: str) -> None:
    """Raise BrokenPromiseError unless a promise holds."""
    if not holds:
        raise BrokenPromiseError(what)


def examine(reader: Reader, data: bytes, folder: Path) -> bool:
    """Read an input; return whether it was accepted.

    Raises:
        BrokenPromiseError: the result or the error message is invalid.
        Exception: anything else that the reader raises, which is a defect, too.
    """
    try:
        reader.read(data, folder)
    except BrokenPromiseError:
        raise
    except Exception as error:
        if type(error) not in reader.documented:
            raise
        check_error(error)
        return False
    return True


def check_error(error: BaseException) -> None:
    """Check that the message of an error is one printable line; its details may have several."""
    message = error.message if isinstance(error, DbbdError) else str(error)
    require(message.strip(), "the error has no message")
    check_line(message)
    if isinstance(error, DbbdError):
        check_line(error.hint)
        for detail in error.details:
            for line in detail.split("\n"):
                check_line(line)
    # A small file must not make the program run out of memory, even if the error is well reported.
    cause: BaseException | None = error
    while cause is not None:
        require(not isinstance(cause, MemoryError), "it ran out of memory")
        cause = cause.__cause__ or cause.__context__


def check_line(text: str) -> None:
    """Raise if a text could break a line, disturb the terminal or fill the screen."""
    bad = [char for char in text if unicodedata.category(char) in _LINE_BREAKING]
    require(not bad, f"characters that are not printable: {text[:200]!r}")
    require(len(text) <= MOST_CHARACTERS, f"a line of so many characters ({len(text):,}): {text[:60]!r}")


def check_lines(texts: Iterable[str]) -> None:
    """Apply `check_line` to each text."""
    for text in texts:
        check_line(text)


def write_once(path: Path, data: bytes) -> Path:
    """Write an input to a file, reusing an existing one, which is faster."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags, 0o600)
    try:
        os.write(file, data)
    finally:
        os.close(file)
    return path
