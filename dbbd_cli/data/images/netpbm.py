"""Read NetPBM images (PBM, PGM and PPM, plain and binary).

Pillow decodes plain text and 16-bit color value by value in Python: a megapixel of 16-bit color takes it 3.2 s (this
module: 0.02 s), one of plain color 1.6 s (0.1 s). With Pillow, such images of more than 19 and 38 megapixels would miss
the deadline of a worker process, 60 s, and would no longer be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from dbbd_cli.data.images.formats import ImageFileError

_HEADER_BYTES = 100_000
"""Maximum size of the header, including comments."""
_COMMENT_OR_TOKEN = re.compile(rb"#[^\r\n]*|[^\s#]+")
_COMMENT = re.compile(rb"#[^\r\n]*")
_BLANKS = b" \t\r\n\v\f"
_BLANK = re.compile(rb"\s")
_OTHER_TEXT = re.compile(rb"[^\s0-9]")
_LINE_END = re.compile(rb"[\r\n]")
_BLOCK_BYTES = 1 << 20
_VALUES_AT_ONCE = 1 << 20


def netpbm_header(data: bytes) -> tuple[int, int, int, int, int]:
    """Read the header of the first image in a NetPBM file.

    Args:
        data: content of the file, which begins with P1 to P6.

    Returns:
        The digit after the P, width, height, the value of white, and the offset of the pixels.

    Raises:
        ImageFileError: the header is damaged or incomplete.
    """
    kind = data[1] - ord("0")
    wanted = 2 if kind in (1, 4) else 3
    numbers: list[int] = []
    end = 2
    for token in _COMMENT_OR_TOKEN.finditer(data[:_HEADER_BYTES], 2):
        if token[0].startswith(b"#"):
            continue
        if not token[0].isdigit() or len(token[0]) > 9:
            raise ImageFileError("damaged: width, height or maximum in its header is not a number")
        numbers.append(int(token[0]))
        end = token.end()
        if len(numbers) == wanted:
            break
    else:
        raise ImageFileError("truncated")
    width, height, white = [*numbers, 1][:3]
    if not width or not height or not 0 < white < 65536:
        raise ImageFileError("damaged: its width, height or maximum is out of range")
    return kind, width, height, white, end + 1  # a single whitespace character ends the header


def read_netpbm(data: bytes) -> np.ndarray:
    """Read the first image in a NetPBM file, `(H, W)` gray or `(H, W, 3)` RGB, uint8.

    The caller first checks the size that `netpbm_header` returns.

    Raises:
        ImageFileError: the file is damaged or incomplete.
    """
    kind, width, height, white, start = netpbm_header(data)
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    if kind == 4:
        row_bytes = -(-width // 8)
        bits = np.frombuffer(data, np.uint8, count=_available(data, start, row_bytes * height, 1), offset=start)
        return np.where(np.unpackbits(bits.reshape(height, row_bytes), axis=1)[:, :width], np.uint8(0), np.uint8(255))
    count = int(np.prod(shape))
    if kind > 4:
        dtype = np.dtype(">u2" if white > 255 else "u1")
        values = np.frombuffer(data, dtype, count=_available(data, start, count, dtype.itemsize), offset=start)
    else:
        values = _plain_values(data, start - 1, count, white, digits=kind == 1)
    _check_range(values, white)
    pixels = np.empty(count, np.uint8)
    for first in range(0, count, _VALUES_AT_ONCE):
        part = values[first : first + _VALUES_AT_ONCE].astype(np.uint32)
        pixels[first : first + _VALUES_AT_ONCE] = (part * 255 + white // 2) // white
    return (255 - pixels if kind == 1 else pixels).reshape(shape)


def _available(data: bytes, start: int, count: int, size: int) -> int:
    if len(data) - start < count * size:
        raise ImageFileError("truncated")
    return count


def _plain_values(data: bytes, start: int, count: int, white: int, *, digits: bool) -> np.ndarray:
    """The first `count` numbers of a text, at most `white`; if `digits`, each is a single digit."""
    parts: list[np.ndarray] = []
    found = 0
    for block in _blocks(data, start):
        if digits:
            values = np.frombuffer(block.translate(None, _BLANKS), np.uint8) - np.uint8(ord("0"))
        else:
            values, is_whole = _numbers(block)
            if not is_whole and len(values) < count - found:
                raise ImageFileError("damaged: it contains text that is not a number")
        values = values[: count - found]
        _check_range(values, white)
        parts.append(values.astype(np.uint16))
        found += len(values)
        if found == count:
            return np.concatenate(parts)
    raise ImageFileError("truncated")


def _numbers(text: bytes) -> tuple[np.ndarray, bool]:
    """The numbers before any other text, int64, and whether there is no other text."""
    other = _OTHER_TEXT.search(text)
    if other:
        text = text[: other.start()]
        text = text[: len(text) - len(text.rsplit(None, 1)[-1])] if text and not text[-1:].isspace() else text
    return np.fromstring(text, np.int64, sep=" ") if text.strip() else np.zeros(0, np.int64), other is None


def _blocks(data: bytes, start: int) -> Iterator[bytes]:
    """Split a text into blocks that end between two numbers, without comments."""
    while start < len(data):
        blank = _BLANK.search(data, start + _BLOCK_BYTES)
        end = blank.end() if blank else len(data)
        if (comment := data.rfind(b"#", start, end)) >= 0:
            line_end = _LINE_END.search(data, comment)
            end = max(end, line_end.end() if line_end else len(data))
            yield _COMMENT.sub(b" ", data[start:end])
        else:
            yield data[start:end]
        start = end


def _check_range(values: np.ndarray, white: int) -> None:
    if values.size and not 0 <= values.min() <= values.max() <= white:
        raise ImageFileError(f"damaged: it has values outside the range from 0 to its maximum, {white}")
