"""What is asked of everything that reads: a sound result, or the error that is documented, in one printable line."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dbbd_cli.core.errors import DbbdError

SHARED = Path(__file__).parents[3] / ".." / "shared"
"""Real data beside the repository, where there is some."""

MOST_CHARACTERS = 2000
"""A message is a line for people, whatever stood in the file; the path of the file is part of it."""

_LINE_BREAKING = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Reader:
    """Something of the program that reads what others may have written.

    Args:
        name: what it is called in tables.
        read: reads the bytes, as a file in the given empty folder or as they are, and raises `BrokenPromiseError` where
            the result is not what the documentation says.
        seeds: valid inputs.
        documented: the errors that the documentation names; their subclasses are others.
        seal: makes the checksums inside an input right, so that what they protect is reached.
        structured: inputs are texts in JSON that stand for values in memory: only values in them are damaged.
    """

    name: str
    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    documented: tuple[type[Exception], ...]
    seal: Callable[[bytes], bytes] | None = None
    structured: bool = False


class BrokenPromiseError(AssertionError):
    """A reader gave something that it should not have given."""


def require(holds: object, what: str) -> None:
    """Raises where a promise is broken."""
    if not holds:
        raise BrokenPromiseError(what)


def examine(reader: Reader, data: bytes, folder: Path) -> bool:
    """Reads an input; returns whether it was accepted.

    Raises:
        BrokenPromiseError: the result, or the message of the error, is not as it should be.
        Exception: whatever else the reader raised, which is a defect too.
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
    """An error for people says something, in one printable line; its details may have several."""
    message = error.message if isinstance(error, DbbdError) else str(error)
    require(message.strip(), "the error has no message")
    check_line(message)
    if isinstance(error, DbbdError):
        check_line(error.hint)
        for detail in error.details:
            for line in detail.split("\n"):
                check_line(line)
    # A small file that makes the program run out of memory was trusted too much, even where that is then told nicely.
    cause: BaseException | None = error
    while cause is not None:
        require(not isinstance(cause, MemoryError), "it ran out of memory")
        cause = cause.__cause__ or cause.__context__


def check_line(text: str) -> None:
    """Raises where text could break a line, or the terminal, or fill a screen."""
    bad = [char for char in text if unicodedata.category(char) in _LINE_BREAKING]
    require(not bad, f"characters that are not printable: {text[:200]!r}")
    require(len(text) <= MOST_CHARACTERS, f"a line of so many characters ({len(text):,}): {text[:60]!r}")


def check_lines(texts: Iterable[str]) -> None:
    """`check_line` for each."""
    for text in texts:
        check_line(text)


def write_once(path: Path, data: bytes) -> Path:
    """Writes an input as a file; quicker than making a new one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags, 0o600)
    try:
        os.write(file, data)
    finally:
        os.close(file)
    return path
