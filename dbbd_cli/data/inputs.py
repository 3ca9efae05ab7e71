"""What the inputs of `predict` are: existing files and folders, or texts. Nothing is fetched from anywhere.

1. A text with a scheme, such as `https://`, is never a path, whatever files exist.
2. Else the name of an existing file or folder is that file or folder.
3. Else a path whose first part is an existing folder, or cannot be a host, is that of a missing file.
4. Else everything is text; it is for the task to judge or reject it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dbbd_cli.core.text import printable
from dbbd_cli.data.problems import UNPRINTABLE
from dbbd_cli.data.urls.cleaning import split_url
from dbbd_cli.data.urls.kinds import other_kind

MAX_BYTES = 1 << 16
"""Length limit of a line or an argument; a QR code holds at most 2,953 bytes."""
_CHUNK_BYTES = 1 << 16
_SHOWN = 80
_HOST_MARK = re.compile(r"[.:\[@]")


@dataclass(frozen=True)
class Input:
    """An input.

    Attributes:
        name: the text as given, or where it stands if it is too long to repeat.
        path: the file or folder that it names, if any.
        problem: why it cannot be used; empty if it can.
        is_missing: whether it is the path of a missing file or folder.
    """

    name: str
    path: Path | None = None
    problem: str = ""
    is_missing: bool = False


class ByteStream(Protocol):
    """A stream such as `sys.stdin.buffer`."""

    def read1(self, size: int, /) -> bytes:
        """Return what is available, at most `size` bytes; wait only if nothing is; empty at the end."""
        ...


def input_of(text: str) -> Input:
    """Return what a text is."""
    if not text:
        return Input("", problem="the text is empty")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return Input(_beginning(text), problem=f"the text is too long: {size:,} bytes (limit {MAX_BYTES:,})")
    is_url = bool(split_url(text).scheme)
    if not is_url and os.path.exists(text):  # noqa: PTH110 - a Path raises for a NUL or a long name
        return _existing(text)
    if UNPRINTABLE.search(text):
        name = _beginning(printable(text))
        return Input(name, problem="has a control character, a line break, or bytes that are not UTF-8")
    first, slash, _ = text.partition("/")
    is_path = slash and not is_url and (not _HOST_MARK.search(first) or os.path.isdir(first))  # noqa: PTH112
    return Input(text, is_missing=bool(is_path))


def _existing(name: str) -> Input:
    path = Path(name)
    if path.is_dir() or path.is_file():
        return Input(name, path)
    # Opening a named pipe would block forever.
    what = "is neither a regular file nor a folder" if path.exists() else "is a link to a missing file"
    return Input(name, problem=what)


def arguments(given: Sequence[str], stream: ByteStream) -> Iterator[list[Input]]:
    """Yield the inputs of a command line in blocks: what follows a block may not be available yet.

    Args:
        given: the arguments: `-` stands for the lines of the stream; a pattern with `*`, `?` or `[` that is not itself
            the name of a file stands for the files that it matches, if any.
        stream: the standard input.
    """
    block: list[Input] = []
    for text in given:
        if text == "-":
            yield block
            yield from lines(stream)
            block = []
        else:
            block += [_existing(name) for name in matches(text)] or [_without_match(text)]
    yield block


def _without_match(text: str) -> Input:
    found = input_of(text)
    if not found.path and not found.problem and glob.has_magic(text) and other_kind(text):
        return Input(text, problem="no file matches this pattern")
    return found


def matches(text: str) -> list[str]:
    """The files that a pattern matches, sorted; none for a text that is not a pattern."""
    if not glob.has_magic(text) or split_url(text).scheme or "\0" in text or os.path.exists(text):  # noqa: PTH110
        return []
    return sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - a Path would change how the names are written


def lines(stream: ByteStream) -> Iterator[list[Input]]:
    """Yield the lines of a stream, each a URL or a path, as soon as they are available. Empty lines do not count.

    A line that is too long is left out without being kept in memory.
    """
    number, rest, too_long = 0, b"", 0
    while True:
        chunk = stream.read1(_CHUNK_BYTES)
        *whole, last = chunk.split(b"\n")
        if not chunk:
            whole, last = [b""], b""
        block = []
        for part in whole:
            number += 1
            if too_long:
                size = too_long + len(part)
                block.append(Input(f"line {number}", problem=f"the line is too long: {size:,} bytes"))
            else:
                block += _line(rest + part, number)
            rest, too_long = b"", 0
        if too_long or len(rest) + len(last) > MAX_BYTES:
            rest, too_long = b"", too_long + len(rest) + len(last)
        else:
            rest += last
        yield block
        if not chunk:
            return


def _line(line: bytes, number: int) -> list[Input]:
    if len(line) > MAX_BYTES:
        return [Input(f"line {number}", problem=f"the line is too long: {len(line):,} bytes")]
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    # Bytes that are not UTF-8 become lone surrogates: they may be the name of a file.
    text = line.decode("utf-8", "surrogateescape").strip(" \t\r\f\v")
    return [input_of(text)] if text else []


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
