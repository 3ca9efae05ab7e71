"""Read points from text: `.xyz`, `.txt`, `.csv`, `.pts`, `.asc` and the like, with or without a header.

The columns of a file without a header are recognized by their values; `docs/formats.md` has the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dbbd_cli.core.text import printable
from dbbd_cli.data.scenes.formats.blocks import joined
from dbbd_cli.data.scenes.formats.names import column_arrays, find_columns
from dbbd_cli.data.scenes.scene import COORD, SceneArrays

_BLOCK_BYTES = 1 << 25
_MAX_LINE = 1 << 16
_MAX_HEADER_LINES = 1000
_MAX_COLUMNS = 64
_MAX_LABEL = 99
"""Whole numbers up to this after colors are labels rather than a color channel."""
_COMMENT = re.compile(rb"(?m)^[ \t]*(?:#|//)[^\r\n]*")
_COUNT = re.compile(rb"(?m)^[ \t]*\d+[ \t]*(?=\r?$|\r)")
"""The number of points on a line of its own, before each scan of a `.pts` file."""
_DECIMAL_COMMAS = re.compile(rb"\s*(?:(?:[-+]?\d+(?:,\d+)?(?:e[-+]?\d+)?|nan)(?:\s+|$)){3,}", re.IGNORECASE)
"""Numbers between spaces or tabs; where they have commas, these are decimal points."""
_NOT_A_NUMBER = re.compile(rb"[-+]?(?:\d\.#[A-Za-z]+\d*|nan\([^()\s]*\))", re.IGNORECASE)
"""NaN as programs built with Microsoft's compilers write it."""
_BY_SUFFIX = {".xyzn": ("nx", "ny", "nz"), ".xyzrgb": ("red", "green", "blue")}
"""Columns after the coordinates in files of Open3D."""


def read_text(path: Path) -> SceneArrays:
    """Read a scene from a table of numbers; see `reader` for what a reader returns and raises."""
    return joined(text_blocks(path))


def text_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read the points of a table block by block.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a table of numbers with coordinates; the message says why.
    """
    names: list[str] | None = None
    with path.open("rb") as file:
        header, width, separator = _read_header(file)
        for rows in number_rows(file, width, separator):
            names = names or header or _guessed_names(rows, path.suffix.lower())
            arrays = column_arrays(dict(zip(names, rows.T, strict=True)))
            yield arrays


def number_rows(file: BinaryIO, width: int, separator: bytes = b"") -> Iterator[np.ndarray]:
    """Read the rest of a file of lines with `width` numbers each, in blocks `(rows, width)` float64.

    Blank lines, comments (`#` or `//`) and lines with a single whole number are skipped.

    Raises:
        ValueError: a line contains something else; the message names the line.
    """
    # Line numbers count from the beginning of the file.
    start = file.tell()
    file.seek(0)
    line_number = file.read(start).count(b"\n") + 1 if start < 1 << 24 else 1
    rest = b""
    while True:
        data = file.read(_BLOCK_BYTES)
        block = rest + data
        end = len(block) if not data else max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        block, rest = block[:end], block[end:]
        if len(rest) > _MAX_LINE:
            raise ValueError(f"has a line of more than {_MAX_LINE:,} bytes")
        if rows := _parsed(block, width, separator, line_number):
            yield rows[0]
        line_number += block.count(b"\n")
        if not data:
            return


def _parsed(block: bytes, width: int, separator: bytes, line_number: int) -> list[np.ndarray]:
    """The numbers of complete lines; an empty list if there are none."""
    text = _COMMENT.sub(b"", block) if b"#" in block or b"//" in block else block
    if width > 1 and _COUNT.search(text):
        text = _COUNT.sub(b"", text)
    if b"(" in text or b"#" in text:
        text = _NOT_A_NUMBER.sub(b"nan", text)
    lines = _with_spaces(text, separator).decode("latin1").split("\n" if b"\n" in text else "\r")
    if not any(map(str.strip, lines[:1000])) and not any(map(str.strip, lines)):
        return []
    try:
        rows = np.loadtxt(lines, np.float64, comments=None, ndmin=2)
        if rows.shape[1] == width:
            return [rows]
        bad = f"{rows.shape[1]} numbers"
    except ValueError as error:
        bad = str(error)
    for number, line in enumerate(lines, line_number):
        if line.strip() and not _is_row(line, width):
            bad, line_number = line.strip()[:60], number
            break
    raise ValueError(f"its line {line_number:,} does not contain {width} numbers: {printable(bad)}")


def _is_row(line: str, width: int) -> bool:
    values = line.split()
    return len(values) == width and all(map(_is_number, values))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _with_spaces(text: bytes, separator: bytes) -> bytes:
    """The text with spaces between its numbers; where something else separates them, a comma is a decimal point."""
    if separator in (b";", b" "):
        text = text.replace(b",", b".")
    return text.replace(separator, b" ") if separator else text


def _separator(line: bytes) -> bytes:
    """The separator of a line: empty for spaces and tabs, a space if numbers between these have decimal commas."""
    if b"," in line and _DECIMAL_COMMAS.fullmatch(line):
        return b" "
    return next((sign for sign in (b";", b",") if sign in line), b"")


def _read_header(file: BinaryIO) -> tuple[list[str] | None, int, bytes]:
    """The names of the columns if the file has them, their number, and their separator.

    The file is left at the first line of numbers.
    """
    if file.read(3) != b"\xef\xbb\xbf":  # a byte-order mark
        file.seek(0)
    names: list[str] | None = None
    commented: list[str] = []
    for _ in range(_MAX_HEADER_LINES):
        place = file.tell()
        line = file.readline(_MAX_LINE)
        if not line:
            raise ValueError("has no points: it is text without lines of numbers")
        if len(line) == _MAX_LINE:
            raise ValueError(f"is not a table of numbers: it has a line of more than {_MAX_LINE - 1:,} bytes")
        line = line.splitlines()[0]  # \r alone ends lines too
        stripped = line.strip()
        if stripped.startswith((b"#", b"//")):
            found = _names(stripped.lstrip(b"#/ \t"))
            commented = found if COORD in find_columns(found) else commented
            continue
        if not stripped or stripped.isdigit():
            continue
        separator = _separator(line)
        values = _with_spaces(_NOT_A_NUMBER.sub(b"nan", stripped), separator).decode("latin1").split()
        if all(map(_is_number, values)):
            break
        if names is not None:
            shown = printable(stripped[:60].decode("latin1"))
            raise ValueError(f"is not a table of numbers: it contains the line {shown}")
        names = _names(stripped)
    else:
        raise ValueError(f"is not a table of numbers: none are in its first {_MAX_HEADER_LINES:,} lines")
    file.seek(place)
    width = len(values)
    if not 3 <= width <= _MAX_COLUMNS:
        raise ValueError(f"has {width} numbers in a line; expected x, y, z and at most {_MAX_COLUMNS - 3} others")
    if names is not None and len(names) != width:
        raise ValueError(f"names {len(names)} columns in its header, but has {width} numbers in a line")
    if names is None and len(commented) == width:
        names = commented
    return names, width, separator


def _names(line: bytes) -> list[str]:
    separator = _separator(line) or (b"\t" if b"\t" in line else None)
    names: list[str] = []
    for word in line.split(separator):
        name = word.strip().strip(b"\"'").decode("utf-8", "replace").strip().lower()
        names.append(name if name and name not in names else f"column{len(names) + 1}")
    return names


def _guessed_names(rows: np.ndarray, suffix: str) -> list[str]:
    """Names for the columns of a file that does not name them."""
    width = rows.shape[1]
    names = ["x", "y", "z"]
    if suffix in _BY_SUFFIX and width >= 6:
        names += _BY_SUFFIX[suffix]
    while len(names) < width:
        place, left = len(names), width - len(names)
        is_last_label = left in (1, 4) and _is_label(rows[:, -1])
        if left >= 3 and "nx" not in names and _are_normals(rows[:, place : place + 3]):
            names += ("nx", "ny", "nz")
        elif left == 4 and _are_colors(rows[:, -3:]) and (suffix == ".pts" or not is_last_label):
            names += ("intensity", "red", "green", "blue")
        elif left >= 3 and "red" not in names and _are_colors(rows[:, place : place + 3]):
            names += ("red", "green", "blue")
        elif left == 1 and place > 3 and is_last_label:
            names.append("label")
        elif suffix == ".pts" and place == 3:
            names.append("intensity")
        else:
            names.append(f"column{place + 1}")
    return names


def _are_colors(rows: np.ndarray) -> bool:
    return bool(rows.min() >= 0 and 1 < rows.max() <= 255 and np.array_equal(rows, np.rint(rows)))


def _are_normals(rows: np.ndarray) -> bool:
    length = np.linalg.norm(rows, axis=1)
    known = np.isfinite(length) & (length > 0)
    return bool(known.any() and np.abs(length[known] - 1).max() < 0.02 and not np.array_equal(rows, np.rint(rows)))


def _is_label(values: np.ndarray) -> bool:
    return bool(values.min() >= -1 and values.max() <= _MAX_LABEL and np.array_equal(values, np.rint(values)))
