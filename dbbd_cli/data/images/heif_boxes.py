"""Checks how many pixels a HEIC or AVIF file consists of before its decoder reads it.

The size that such a file declares may be far below what is decoded: a grid can have any number of tiles, an image can
be part of another any number of times, and AV1 data declare their own size. Boxes are defined in ISO 14496-12 and
23008-12, AV1 data in section 5.5 of the AV1 bitstream specification.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from dbbd_cli.data.images.pieces import ImageFileError

MAX_PIECES = 20_000
"""Most boxes, items, references and properties; usual files have hundreds."""
_DEEPEST = 16
"""Images that are made of images that are made of images..."""
_SEQUENCE_HEADER = 1
_SEQUENCE_HEADER_BYTES = 512


class _Box(NamedTuple):
    kind: bytes
    start: int
    """Start of the content."""
    end: int


def decoded_pixels(data: bytes) -> int:
    """Number of pixels decoded for the main image of a HEIC or AVIF file, with tiles and transparency.

    Raises:
        ImageFileError: the file consists of far too many pieces, or contains itself.
    """
    reader = _Reader(data)
    try:
        return reader.pixels()
    except IndexError as error:  # a box that ends before its content
        raise ImageFileError("truncated") from error


class _Reader:
    """The content of one file.

    Args:
        data: the file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._pieces = 0
        self._sizes: dict[int, int] = defaultdict(int)
        """Item to its pixels."""
        self._parts: dict[int, list[int]] = defaultdict(list)
        """Item to the items that it consists of."""
        self._extra: list[int] = []
        """Items that belong to others, such as their transparency."""
        self._main = 0

    def pixels(self) -> int:
        pixels = 0
        for box in self._boxes(0, len(self.data)):
            if box.kind == b"meta":
                self._read_meta(box)
            elif box.kind == b"moov":
                pixels += self._pixels_of_tracks(box)
        known: dict[int, int] = {}
        return pixels + sum(self._pixels_of(item, known, 0) for item in (self._main, *self._extra))

    def _pixels_of(self, item: int, known: dict[int, int], depth: int) -> int:
        if depth > _DEEPEST:
            raise ImageFileError("contains itself, or images that are nested too deeply")
        if item not in known:
            parts = sum(self._pixels_of(part, known, depth + 1) for part in self._parts.get(item, ()))
            known[item] = self._sizes.get(item, 0) + parts
        return known[item]

    def _read_meta(self, meta: _Box) -> None:
        boxes = {box.kind: box for box in self._boxes(meta.start + 4, meta.end)}
        kinds = self._kinds(boxes[b"iinf"]) if b"iinf" in boxes else {}
        if b"pitm" in boxes:
            start = boxes[b"pitm"].start
            self._main = self._number(start + 4, 2 if self.data[start] == 0 else 4)
        if b"iprp" in boxes:
            self._read_properties(boxes[b"iprp"])
        if b"iref" in boxes:
            self._read_references(boxes[b"iref"])
        if b"iloc" in boxes:
            idat = boxes.get(b"idat", _Box(b"idat", 0, 0))
            for item, extents in self._extents(boxes[b"iloc"], idat.start):
                if kinds.get(item) == b"av01":
                    payload = extents[0] if len(extents) == 1 else memoryview(b"".join(extents))
                    self._sizes[item] = max(self._sizes[item], self._av1_pixels(payload))

    def _kinds(self, iinf: _Box) -> dict[int, bytes]:
        kinds = {}
        first = iinf.start + (6 if self.data[iinf.start] == 0 else 8)
        for box in self._boxes(first, iinf.end):
            width = {2: 2, 3: 4}.get(self.data[box.start], 0)
            if box.kind == b"infe" and width:
                kind = box.start + 4 + width + 2
                kinds[self._number(box.start + 4, width)] = self.data[kind : kind + 4]
        return kinds

    def _read_properties(self, iprp: _Box) -> None:
        sizes: list[int] = []
        for box in self._boxes(iprp.start, iprp.end):
            if box.kind == b"ipco":
                for part in self._boxes(box.start, box.end):
                    is_size = part.kind == b"ispe"
                    sizes.append(self._number(part.start + 4, 4) * self._number(part.start + 8, 4) if is_size else 0)
            elif box.kind == b"ipma":
                self._read_associations(box, sizes)

    def _read_associations(self, ipma: _Box, sizes: list[int]) -> None:
        place = ipma.start + 8
        item_width = 2 if self.data[ipma.start] == 0 else 4
        width = 2 if self.data[ipma.start + 3] & 1 else 1
        for _ in range(self._count(self._number(ipma.start + 4, 4))):
            item = self._number(place, item_width)
            place += item_width + 1
            for _ in range(self._count(self.data[place - 1])):
                index = self._number(place, width) & (0x7FFF if width == 2 else 0x7F)
                place += width
                if 0 < index <= len(sizes):
                    self._sizes[item] = max(self._sizes[item], sizes[index - 1])

    def _read_references(self, iref: _Box) -> None:
        width = 2 if self.data[iref.start] == 0 else 4
        for box in self._boxes(iref.start + 4, iref.end):
            source = self._number(box.start, width)
            count = self._count(self._number(box.start + width, 2))
            targets = [self._number(box.start + width + 2 + width * index, width) for index in range(count)]
            if box.kind == b"dimg":
                self._parts[source] += targets
            elif box.kind == b"auxl":
                self._extra.append(source)

    def _extents(self, iloc: _Box, idat: int) -> Iterator[tuple[int, list[memoryview]]]:
        """The parts of the data of each item."""
        data = memoryview(self.data)
        version = self.data[iloc.start]
        place = iloc.start + 4
        offset_width, length_width = divmod(self.data[place], 16)
        base_width, index_width = divmod(self.data[place + 1], 16)
        place += 2
        item_width = 4 if version == 2 else 2
        total, count = 0, self._number(place, item_width)
        place += item_width
        for _ in range(self._count(count)):
            item = self._number(place, item_width)
            place += item_width
            in_idat = False
            if version:
                in_idat = self._number(place, 2) & 15 == 1
                place += 2
            place += 2
            base = self._number(place, base_width)
            place += base_width
            parts = []
            num_extents = self._number(place, 2)
            place += 2
            for _ in range(self._count(num_extents)):
                place += index_width if version else 0
                start = base + self._number(place, offset_width) + (idat if in_idat else 0)
                length = self._number(place + offset_width, length_width)
                place += offset_width + length_width
                parts.append(data[start : start + length] if length else data[start:])
                total += len(parts[-1])
                if total > 2 * len(self.data):
                    raise ImageFileError("has overlapping items")
            yield item, parts

    def _pixels_of_tracks(self, moov: _Box) -> int:
        """The pixels of the first frame of each track."""
        pixels = 0
        for trak in self._boxes(moov.start, moov.end):
            tables = self._inside(trak, b"mdia", b"minf", b"stbl") if trak.kind == b"trak" else {}
            places = tables.get(b"stco") or tables.get(b"co64")
            coded = self._boxes(tables[b"stsd"].start + 8, tables[b"stsd"].end) if b"stsd" in tables else iter(())
            if places and b"stsz" in tables and any(entry.kind == b"av01" for entry in coded):
                first = self._number(places.start + 8, 4 if places.kind == b"stco" else 8)
                sizes = tables[b"stsz"].start
                size = self._number(sizes + 4, 4) or self._number(sizes + 12, 4)
                pixels += self._av1_pixels(memoryview(self.data)[first : first + size])
        return pixels

    def _inside(self, box: _Box, *path: bytes) -> dict[bytes, _Box]:
        """The boxes at the end of a path of boxes inside boxes."""
        found = {part.kind: part for part in self._boxes(box.start, box.end)}
        for kind in path:
            if kind not in found:
                return {}
            found = {part.kind: part for part in self._boxes(found[kind].start, found[kind].end)}
        return found

    def _av1_pixels(self, payload: memoryview) -> int:
        """The size in pixels of the largest frame that AV1 data declare."""
        place = largest = 0
        while place < len(payload):
            self._count(1)
            head = payload[place]
            place += 2 if head & 4 else 1
            size = len(payload) - place
            if head & 2:
                size = shift = 0
                while True:
                    byte = payload[place]
                    place += 1
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128 or shift > 56:
                        break
            if head >> 3 & 15 == _SEQUENCE_HEADER:
                header = payload[place : place + min(size, _SEQUENCE_HEADER_BYTES)]
                largest = max(largest, _largest_frame(bytes(header)))
            place += size
        return largest

    def _boxes(self, start: int, end: int) -> Iterator[_Box]:
        while start + 8 <= end:
            self._count(1)
            size, kind, head = self._number(start, 4), self.data[start + 4 : start + 8], 8
            if size == 1:
                size, head = self._number(start + 8, 8), 16
            size = size or end - start
            if size < head or start + size > end:
                return
            yield _Box(kind, start + head, start + size)
            start += size

    def _number(self, place: int, width: int) -> int:
        if place + width > len(self.data):
            raise IndexError
        return int.from_bytes(self.data[place : place + width], "big")

    def _count(self, pieces: int) -> int:
        self._pieces += pieces
        if self._pieces > MAX_PIECES:
            raise ImageFileError(f"consists of more than {MAX_PIECES:,} pieces, far more than it could need")
        return pieces


def _largest_frame(header: bytes) -> int:
    """The pixels of the largest frame that a sequence header of AV1 allows."""
    bits = _Bits(header)
    bits.take(3 + 1)
    if bits.take(1):  # reduced header of a still picture
        bits.take(5)
    else:
        delay_bits = 0
        if bits.take(1):  # timing
            bits.take(64)
            if bits.take(1):
                bits.take_variable()
            if bits.take(1):  # decoder model
                delay_bits = bits.take(5) + 1
                bits.take(32 + 5 + 5)
        has_display_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delay_bits and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if has_display_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


class _Bits:
    """Reads numbers of any width in bits; all bits beyond the end are zero."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

    def take_variable(self) -> int:
        """A number preceded by as many zeros as it has bits."""
        zeros = 0
        while self._left > 0 and not self.take(1):
            zeros += 1
        return self.take(min(zeros, 32))
