"""A look at what an image file consists of, before PIL reads it.

PIL goes through segments, chunks, blocks and tags one by one in Python, and copies what a tag points to: files of a few
megabytes can keep it busy for minutes, or fill the memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

MAX_SCANS = 1000
MAX_SCANNED_PIXELS = 1_000_000_000
"""Most scans of a JPEG, and most pixels in all of them, once they are more than those of usual encoders."""

MAX_TAG_VALUES, MAX_STRIPS = 200_000, 100_000
"""Most values of a tag of a TIFF, and most strips or tiles."""

_USUAL_SCANS = 20
_FREE_PIECES = 20_000
_BYTES_PER_PIECE = 500
"""A file may have so many pieces, and one more for so many bytes: usual ones have thousands of bytes."""
_MOST_EXIF_SEGMENTS = 100
_LONGEST_FRAME = 20
"""Bytes of the segment that tells the size of a picture with four channels."""
_PROFILE_PIECES = 500
"""What a color profile in a PNG counts for: PIL inflates each to up to a megabyte."""

_JPEG_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xd9-\xff])", re.DOTALL)
"""What begins a segment: not what stands for a byte 255 within a scan, nor a mark to start again within one.

Or what fills the place before it.
"""
_FILLING, _APP1, _END, _SCAN = 0xFF, 0xE1, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0xC8, 0xD9, *range(0xF0, 0xFE)}
"""Kinds that PIL takes for marks alone, before the first scan."""
_FILLINGS = re.compile(rb"\xff+")
_EXIF = b"Exif\0\0"
_STRIPS = (273, 279, 324, 325)
"""Tags with the places and sizes of strips and tiles."""
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TYPES_OF_BYTES = (1, 2, 6, 7)


class ImageFileError(ValueError):
    """An image cannot be used; the message is the reason, in plain words."""


def check_pieces(data: bytes, kind: str) -> int:
    """Looks at the content of an image file of a format, as PIL names it.

    Returns:
        The number of scans that a JPEG has, 1 for the other formats.

    Raises:
        ImageFileError: it would take far more time or memory than its size justifies.
    """
    if kind == "JPEG":
        return _check_jpeg(data)
    if kind == "TIFF":
        _check_tags(data)
    else:
        _check_number(data, {"PNG": _png_pieces, "GIF": _gif_pieces}.get(kind, _none)(data))
    return 1


def check_scans(scans: int, pixels: int) -> None:
    """Raises where so many scans, each of which goes over all pixels of the picture once more, would take long."""
    if scans > MAX_SCANS or (scans > _USUAL_SCANS and scans * pixels > MAX_SCANNED_PIXELS):
        raise ImageFileError(f"has {scans:,} scans of {pixels:,} pixels, far more than it could need")


def tags_are_sound(exif: bytes) -> bool:
    """Whether the tags of EXIF data take no more memory than the data are large, or little more."""
    sizes = [size for _, _, size in _tags(exif.removeprefix(_EXIF))]
    return sum(sizes) <= 2 * len(exif) + (1 << 20)


def _check_number(data: bytes, pieces: Iterable[int]) -> None:
    """Raises where the pieces, each with what it counts for, are more than a file of this size may have."""
    limit = _FREE_PIECES + len(data) // _BYTES_PER_PIECE
    found = 0
    for piece in pieces:
        found += piece
        if found > limit:
            raise ImageFileError(f"consists of more than {limit:,} pieces, far more than its size justifies")


def _check_jpeg(data: bytes) -> int:
    exif: list[bytes] = []
    scans = frames = 0

    def counted() -> Iterator[int]:
        nonlocal scans, frames
        for start, kind, stray_bytes in _jpeg_segments(data):
            scans += kind == _SCAN
            frames += kind in _FRAMES and not scans
            is_long = kind in _FRAMES and int.from_bytes(data[start : start + 2], "big") > _LONGEST_FRAME
            if frames > 1 or is_long:  # PIL keeps them all
                raise ImageFileError("has more than one header, or one that is too long")
            if len(exif) > _MOST_EXIF_SEGMENTS:  # PIL joins them one by one
                raise ImageFileError(f"has more than {_MOST_EXIF_SEGMENTS} segments of EXIF data")
            if kind == _APP1 and data[start + 2 : start + 8] == _EXIF:
                exif.append(data[start + 8 : start + int.from_bytes(data[start : start + 2], "big")])
            yield 1 + stray_bytes

    _check_number(data, counted())
    if not tags_are_sound(b"".join(exif)):
        raise ImageFileError("has EXIF data whose tags lie over each other")
    return scans


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where the content of each segment begins, with its kind, and the bytes before it that belong to none."""
    place, in_scan = 2, False
    while found := _JPEG_SEGMENT.search(data, place):
        strays = 0 if in_scan else found.start() - place
        kind = found[1][0]
        if kind == _FILLING:
            run = _FILLINGS.match(data, found.start())
            assert run is not None
            yield run.end(), kind, strays + len(run[0])
            place = run.end() - 1  # the last may begin what follows
            continue
        yield found.end(), kind, strays
        if kind == _END and in_scan:
            return
        in_scan = in_scan or kind == _SCAN
        place = found.end()
        if in_scan or kind not in _WITHOUT_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    if not in_scan and place < len(data):
        yield len(data), _END, len(data) - place


def _none(data: bytes) -> Iterable[int]:
    return ()


def _png_pieces(data: bytes) -> Iterator[int]:
    place = 8
    while place < len(data) and data[place + 4 : place + 8] != b"IEND":
        yield _PROFILE_PIECES if data[place + 4 : place + 8] == b"iCCP" else 1
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _gif_pieces(data: bytes) -> Iterator[int]:
    """The blocks before the first picture, and the bytes that belong to none."""
    place = 13 + (3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 128 else 0)
    while place < len(data) and data[place : place + 1] not in (b",", b";"):
        yield 1
        if data[place : place + 1] != b"!":
            place += 1
            continue
        code = data[place + 1 : place + 2]
        place += 2
        # PIL reads on after a first block that is empty, and after the empty one behind the name of an application.
        if code == b"\xff" and data[place + 1 : place + 12] == b"NETSCAPE2.0":
            place += 1 + data[place]
        if code != b"\xfe" and data[place : place + 1] == b"\0":
            place += 1
        while place < len(data) and data[place]:
            yield 1
            place += 1 + data[place]
        place += 1


def _check_tags(data: bytes) -> None:
    total = 0
    for tag, values, size in _tags(data):
        limit = MAX_STRIPS if tag in _STRIPS else MAX_TAG_VALUES
        if values > limit:
            raise ImageFileError(f"its tag {tag} has {values:,} values; at most {limit:,} are read")
        total += size
    if total > 2 * len(data) + (1 << 20):
        raise ImageFileError("has tags that lie over each other")


def _tags(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The tags of the first directory of a TIFF or of EXIF data.

    Yields:
        The tag, the numbers that PIL makes a list of, and the bytes that it copies.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    start, number, entry = (8, "Q", struct.Struct(order + "HHQQ")) if big else (4, "H", struct.Struct(order + "HHII"))
    try:
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        (count,) = struct.unpack_from(order + number, data, place)
        first = place + struct.calcsize(number)
        for index in range(min(count, (len(data) - first) // entry.size)):
            tag, kind, values, where = entry.unpack_from(data, first + index * entry.size)
            size = values * _TYPE_BYTES.get(kind, 0)
            inline = size <= (8 if big else 4)
            is_list = kind not in _TYPES_OF_BYTES or tag in _STRIPS
            if inline or where + size <= len(data):  # what lies beyond the end is not read
                yield tag, values if is_list and size else 0, size
    except struct.error:
        return
