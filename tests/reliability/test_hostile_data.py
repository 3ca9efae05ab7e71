"""Hostile data is refused quickly and in little memory, with its name and the reason."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from program import TINY, measure, peak_memory, without
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.data.images.formats import can_read

SECONDS, MEGABYTES = 2.0, 300.0
"""Limits on what refusing may cost beyond what the program needs anyway; seconds apply to the full form only."""
COORD = np.random.default_rng(0).random((200, 3), dtype=np.float32)


def png(width: int, height: int, depth: int, color: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """Return a black picture."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    raw = rows
    if raw is None:
        row, deflate = b"\0" * (1 + -(-width * channels * depth // 8)), zlib.compressobj(9)
        raw = b"".join([*(deflate.compress(row) for _ in range(height)), deflate.flush()])
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", raw), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def jpeg_head(width: int, height: int) -> bytes:
    """Return a truncated picture that its decoder has to keep in memory as a whole."""
    data = bytearray(saved(noise(), "JPEG", progressive=True, subsampling=0))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, height, width)
    return bytes(data)


def tags(*entries: tuple[int, int, int, int], more: int) -> bytes:
    """Return a TIFF that consists of a directory only: tag, type, count, offset."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4 + more)


def grid_of_grids() -> bytes:
    """Return a HEIC whose main image claims to consist of nine grids of hundreds of tiles each."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    data = saved(noise(), "HEIF")
    start = data.index(b"meta") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    made_of = {1: [2] * 9, 2: [3] * 999, 3: [4] * 999}
    parts = [struct.pack(f">HH{len(tiles)}H", item, len(tiles), *tiles) for item, tiles in made_of.items()]
    references = box(b"iref", bytes(4) + b"".join(box(b"dimg", part) for part in parts))
    sizes = struct.pack(">I", 2) + b"".join(struct.pack(">HBB", item, 1, index) for item, index in ((1, 1), (4, 1)))
    shape = box(b"ipco", box(b"ispe", bytes(4) + struct.pack(">II", 64, 48)))
    more = references + box(b"iprp", shape + box(b"ipma", bytes(4) + sizes))
    return data[:start] + box(b"meta", data[start + 8 : end] + more) + data[end:]


GOOD_PNG = saved(noise(), "PNG")


@cache
def zeros() -> bytes:
    """Return 200 MB of zeros, compressed. It takes a second, which not every collection of tests should."""
    return zlib.compress(bytes(200_000_000), 9)


BAD_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "13000.png": (lambda: png(13_000, 13_000, 1, 0), "too large"),
    "13000-rgba.png": (lambda: png(13_000, 13_000, 8, 6, rows=b"x"), "too large"),
    "9400-rgba.png": (lambda: png(9_400, 9_400, 8, 6, rows=zeros()), "too large"),
    "9400-rgba16.png": (lambda: png(9_400, 9_400, 16, 6, rows=b"x"), "too large"),
    "4-billion.png": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2, rows=b"x"), "too large"),
    "wide.png": (lambda: png(2**31 - 1, 1, 8, 0, rows=b"x"), "too large"),
    "9400-16bit.png": (lambda: png(9_400, 9_400, 16, 0, rows=zeros()), "too large"),
    "9400.webp": (lambda: WEBP_OF_ONE_COLOR, "too large"),
    "60000.gif": (lambda: b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + GIF_REST, "too large"),
    "cut.png": (lambda: GOOD_PNG[: len(GOOD_PNG) // 2], "truncated"),
    "cut.jpg": (lambda: saved(noise(), "JPEG")[:600], "truncated"),
    "text.png": (lambda: b"hello, world\n" * 20, "not an image"),
    "page.png": (lambda: b"<!doctype html><script>alert(1)</script>", "not an image"),
    "zip.png": (lambda: zipped(a=b"1"), "not an image"),
    "svg.png": (lambda: b"<svg><image href='file:///etc/passwd'/></svg>", "not an image"),
    "script.bmp": (lambda: b"BM#!/bin/sh\ntouch x\n" * 9, "truncated"),
    "empty.png": (lambda: b"", "empty file"),
    "colors.png": (lambda: png(64, 48, 8, 2, chunk(b"iCCP", b"x\0\0" + zeros())), ""),
    "notes.png": (lambda: png(64, 48, 8, 2, *[chunk(b"zTXt", b"x\0\0" + zeros())] * 20), "damaged"),
    "letters.png": (lambda: png(64, 48, 8, 2, *[chunk(b"iTXt", b"x\0\1\0\0\0" + zeros())] * 20), "damaged"),
    "9000.jpg": (lambda: jpeg_head(9_000, 9_000), "too large"),
    "float.tif": (lambda: saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "32-bit"),
    "comments.gif": (lambda: b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 2_000_000 + b"\0;", "damaged"),
    "strips.tif": (lambda: tags((273, 4, 10**7, 8), more=4 * 10**7), "damaged"),
    "overlapping.tif": (lambda: tags(*[(n, 1, 10**6, 9) for n in range(999, 65000)], more=10**6), "damaged"),
    "hole.png": (lambda: GOOD_PNG[:-12] + bytes(260 * 2**20), "(limit 268,435,456)"),
    "no-data.png": (lambda: png(64, 48, 8, 2, rows=zlib.compress(b"")), ""),
    "9400.ppm": (lambda: b"P6 9400 9400 65535\n", "truncated"),
    "wide.pgm": (lambda: b"P5 999999999 1 255\n", "too large"),
    "blanks.ppm": (lambda: b"P3 3000 3000 255\n" + b" " * 40_000_000, "damaged"),
    "header.pbm": (lambda: b"P4" + b"#\n" * 2_000_000, "damaged"),
    "digits.pgm": (lambda: b"P2 3000 3000 255\n" + b"1" * 40_000_000, "damaged"),
}  # fmt: skip
if can_read("HEIF"):
    BAD_IMAGES["grid.heic"] = (lambda: grid_of_grids(), "truncated")
GIF_REST = b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + struct.pack("<HH", 60_000, 60_000) + b"\0\2\2D\1\0;"
WEBP_OF_ONE_COLOR = bytes.fromhex("524946461a000000574542505650384c0d0000002fb7e42d19071011118888fe0700")
"""9400 x 9400 pixels."""
ODD_IMAGES: dict[str, Callable[[], bytes]] = {
    "moving.gif": lambda: saved(noise(), "GIF", save_all=True, append_images=[noise("L").convert("RGB")] * 20),
    "moving.png": lambda: saved(noise(), "PNG", save_all=True, append_images=[noise("L").convert("RGB")] * 20),
    "moving.webp": lambda: saved(noise(), "WEBP", save_all=True, append_images=[noise("L").convert("RGB")] * 20),
    "deep.png": lambda: saved(Image.fromarray(np.arange(3072, dtype=np.uint16).reshape(48, 64) * 21), "PNG"),
    "print.jpg": lambda: saved(noise("CMYK"), "JPEG"),
    "print.tif": lambda: saved(noise("CMYK"), "TIFF"),
    "clear.png": lambda: saved(noise("RGBA"), "PNG"),
    "palette.png": lambda: saved(noise().convert("P"), "PNG"),
    "too-much-data.png": lambda: png(64, 48, 8, 2, rows=zeros()),
    "large.png": lambda: png(8_000, 8_000, 8, 0),
    "plain.ppm": lambda: b"P3 8 6 9\n" + b"1 2 3 # 4\n" * 48,
    "deep.pgm": lambda: saved(Image.fromarray(np.arange(3072, dtype=np.uint16).reshape(48, 64) * 21), "PPM"),
    "scan.pbm": lambda: saved(noise("L").convert("1"), "PPM"),
    "clear.jfif": lambda: saved(noise(), "JPEG"),
    "gif.png": lambda: saved(noise(), "GIF"),
}
"""Rare but valid pictures."""


def pickled(**content: Any) -> Callable[[Path], None]:
    return lambda path: path.with_suffix(".pkl").write_bytes(pickle.dumps({"coords": COORD, **content}))


def ply(kind: str, *lines: str, body: bytes = COORD.tobytes()) -> Callable[[Path], None]:
    head = "\n".join(["ply", f"format {kind} 1.0", *lines, "end_header\n"])
    return lambda path: path.with_suffix(".ply").write_bytes(head.encode() + body)


XYZ = ("property float x", "property float y", "property float z")
TEXT = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in COORD).encode() + b"\n"


def npy(shape: str, kind: str = "<f4", body: bytes = COORD.tobytes()) -> bytes:
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def arrays(**files: bytes) -> Callable[[Path], None]:
    """Return a function that writes a scene as a folder of .npy files."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, data in files.items():
            (path / f"{name}.npy").write_bytes(data)

    return write


def archived(**files: bytes) -> Callable[[Path], None]:
    entries = {f"{name}.npy": data for name, data in files.items()}
    return lambda path: path.with_suffix(".npz").write_bytes(zipped(**entries))


def region(points: Any, level: int = 0, children: Any = (), center: int = 0) -> dict[str, Any]:
    return {"indices": points, "center_idx": center, "level": level, "children": list(children)}


EVERY, FIRST, SECOND = list(range(200)), list(range(100)), list(range(100, 200))


def cycle(through: int) -> dict[str, Any]:
    """Return a region that contains itself, after a number of levels."""
    root = region(EVERY)
    place = root
    for level in range(1, through):
        place["children"] = [region(EVERY, level)]
        place = place["children"][0]
    place["children"] = [root]
    return root


def chain(depth: int) -> Callable[[Path], None]:
    """Write a tree with one region per level by hand: pickle would overflow its stack."""

    def write(path: Path) -> None:
        start = b"}(X\x07\0\0\0indices" + b"h\x00X\x0a\0\0\0center_idxK\0X\x05\0\0\0level"
        levels = b"".join(start + b"J" + struct.pack("<i", level) + b"X\x08\0\0\0children](" for level in range(depth))
        points = b"](" + b"".join(b"K" + bytes([point]) for point in EVERY) + b"eq\x00"
        coord = pickletools.optimize(pickle.dumps(COORD.tolist(), 2))[2:-1]
        path.with_suffix(".pkl").write_bytes(
            b"\x80\x02" + points + b"0}(X\x06\0\0\0coords" + coord
            + b"X\x09\0\0\0hierarchy" + levels + b"eu" * depth + b"u."
        )  # fmt: skip

    return write


def points_with(value: float) -> np.ndarray:
    coord = COORD.copy()
    coord[42, 1] = value
    return coord


BAD_SCENES: dict[str, tuple[Callable[[Path], object], str]] = {
    "binary PLY of 10^12": (ply("binary_little_endian", "element vertex 1000000000000", *XYZ), "1,000,000,000,000"),
    "ASCII PLY of 10^12": (ply("ascii", "element vertex 1000000000000", *XYZ, body=TEXT), "declares 1,000,000,000,000"),
    "binary PLY of 9,000,000": (ply("binary_big_endian", "element vertex 9000000", *XYZ), "is truncated"),
    "ASCII PLY of 9,000,000": (ply("ascii", "element vertex 9000000", *XYZ, body=TEXT), "is truncated"),
    "PLY of -1": (ply("ascii", "element vertex -1", *XYZ), "an invalid line"),
    "PLY of 10^30": (ply("ascii", "element vertex 1" + "0" * 30, *XYZ), "an invalid line"),
    "PLY with lists of 10^9": (
        ply("binary_little_endian", "element face 3", "property list uint int i", "element vertex 200", *XYZ,
            body=struct.pack("<I", 10**9) * 90), "is truncated in its element face"),
    "PLY with a list of -1": (
        ply("binary_little_endian", "element face 3", "property list int int i", "element vertex 200", *XYZ,
            body=struct.pack("<i", -1) * 90), "negative length"),
    "PLY with 10^12 faces": (
        ply("binary_little_endian", "element face 1000000000000", "property list uchar int i", "element vertex 200",
            *XYZ, body=bytes(3_000_000)), "lists in or before its points"),
    "PLY with 10^12 lines": (
        ply("ascii", "element face 1000000000000", "property list uchar int i", "element vertex 200", *XYZ,
            body=b"0\n" * 1_000_000), "lines before its points"),
    "binary PLY with 10^8 empty lists and no points": (
        ply("binary_little_endian", "element face 100000000", "property list uchar int i", "element vertex 200", *XYZ,
            body=bytes(100_000_000)), "lists in or before its points"),
    "binary PLY of 10^7 points and too few lists": (
        ply("binary_little_endian", "element vertex 10000000", *XYZ, "property list uchar int i",
            body=bytes(129_999_999)), "is truncated in its element vertex"),
    "PLY of points with a list of 10^9": (
        ply("binary_little_endian", "element vertex 3", *XYZ, "property list uint int i",
            body=struct.pack("<I", 10**9) * 90), "is truncated in its element vertex"),
    "ASCII PLY of points with a list of 10^9": (
        ply("ascii", "element vertex 3", *XYZ, "property list uint int i", body=b"1 2 3 1000000000 1\n" * 3),
        "a line that does not contain the numbers and lists"),
    "PLY with 900,000 empty lists and no more": (
        ply("binary_little_endian", "element face 900000", "property list uchar int i", "element vertex 200", *XYZ,
            body=bytes(800_000)), "is truncated in its element face"),
    "ASCII PLY of 10^8 blank lines": (
        ply("ascii", "element vertex 200", *XYZ, body=b"\n" * 100_000_000), "10,000 more blank lines"),
    "ASCII PLY of one long line": (
        ply("ascii", "element vertex 200", *XYZ, body=b"1 " * 100_000_000), "a line that is too long"),
    "PLY with 5,000 properties": (
        ply("ascii", "element vertex 200", *XYZ, *(f"property float p{n}" for n in range(5000))), "too small"),
    "PLY with lists as points": (
        ply("ascii", "element vertex 200", "property list uchar float x"), "no numeric properties"),
    "PLY without an end": (lambda path: path.with_suffix(".ply").write_bytes(b"ply\nformat ascii 1.0\n"), "truncated"),
    "PLY of one line": (lambda path: path.with_suffix(".ply").write_bytes(b"ply" + b"y" * 10**7), "is not a PLY file"),
    "PLY of NaN": (
        ply("ascii", "element vertex 200", *XYZ, body=b"nan" + TEXT[6:]), "not finite at point 0"),
    "npy of 10^12": (arrays(coord=npy("(1000000000000, 3)")), "is not an array of numbers"),
    "npy of 10^30": (arrays(coord=npy("(" + "1" + "0" * 30 + ", 3)")), "is not an array of numbers"),
    "npy of -1": (arrays(coord=npy("(-1, 3)")), "is not an array of numbers"),
    "npy of objects": (arrays(coord=npy("(200, 3)", "|O", pickle.dumps([0] * 600))), "is not an array of numbers"),
    "npy of records": (arrays(coord=npy("(200, 3)", "V99999")), "is not an array of numbers"),
    "npy that nests": (arrays(coord=npy("(" * 90 + "200" + ")" * 90)), "is not an array of numbers"),
    "npy with code": (arrays(coord=npy("__import__('os').getpid()")), "is not an array of numbers"),
    "npy cut off": (arrays(coord=npy("(200, 3)", body=b"")), "is not an array of numbers"),
    "npy of a normal of 10^12": (arrays(coord=npy("(200, 3)"), normal=npy("(10000000000000,)")), "is not an array"),
    "npz of 10^12": (archived(coord=npy("(1000000000000, 3)")), "its array coord "),
    "npz bomb": (
        archived(coord=npy("(60000000, 3)", body=bytes(200_000_000))),
        "its array coord is not an array of numbers"),
    "npz bomb of few enough points": (
        archived(coord=npy("(8000000, 3)", body=bytes(96_000_000))), "all of its points are in the same place"),
    "npz bomb behind a small scene": (
        archived(coord=npy("(200, 3)", body=COORD.tobytes() + bytes(200_000_000)), normal=npy("(201, 3)")),
        "its array normal is not an array of numbers"),
    "npz of objects": (archived(coord=npy("(200, 3)", "|O", pickle.dumps([0] * 600))), "is not an array of numbers"),
    "npz that is a pickle": (lambda path: path.with_suffix(".npz").write_bytes(pickle.dumps({})), "is not an array"),
    "NaN": (pickled(coords=points_with(np.nan)), "not finite at point 42"),
    "infinity": (pickled(coords=points_with(np.inf)), "not finite at point 42"),
    "10^38": (pickled(coords=points_with(1e38)), "extend over 1.0e+38"),
    "text": (pickled(coords=[["1", "2", "3"]] * 200), "something other than numbers"),
    "a ragged list": (pickled(coords=[[1, 2, 3], [1, 2]] * 100), "not a list of rows"),
    "huge numbers": (pickled(coords=[[10**400, 2, 3]] * 200), "must be 3 numbers per point"),
    "points of two numbers": (pickled(coords=COORD[:, :2]), ""),
    "normals of another length": (pickled(normals=np.zeros((7, 3))), "200 points and 7 normals"),
    "a cycle": (pickled(hierarchy=cycle(1)), "has level 0, not 1"),
    "a long cycle": (pickled(hierarchy=cycle(8)), "has level 0, not 8"),
    "a tree of depth 100,000": (chain(100_000), "nested too deeply"),
    "a tree of depth 100": (chain(100), "deeper than level"),
    "a shared node": (pickled(hierarchy=region(EVERY, 0, [region(FIRST, 1, center=0)] * 2)), ""),
    "a shared leaf": (
        pickled(hierarchy=(lambda leaf: region(EVERY, 0, [leaf, leaf]))(region(FIRST, 1))), "exactly once"),
    "a child that lists itself": (
        pickled(hierarchy=(lambda child: child["children"].append(child) or region(EVERY, 0, [child]))(
            region(EVERY, 1))), "has level 1, not 2"),
    "a million children": (pickled(hierarchy=region(EVERY, 0, [region([0], 1)] * 10**6)), "children and 200 points"),
    "indices beyond": (pickled(hierarchy=region([*EVERY[:-1], 200])), "exactly once"),
    "negative indices": (pickled(hierarchy=region([-1, *EVERY[1:]])), "exactly once"),
    "indices that overlap": (pickled(hierarchy=region(EVERY, 0, [region(FIRST, 1), region(FIRST.copy(), 1)])), ""),
    "indices of 10^30": (pickled(hierarchy=region([10**30] * 200)), "indices that are not a list of integers"),
    "a center elsewhere": (pickled(hierarchy=region(EVERY, center=10**9)), "has its center"),
    "a wrong level": (pickled(hierarchy=region(EVERY, level=7)), "has level 7"),
    "no tree": (pickled(hierarchy="root"), "hierarchy is not a dict"),
    "a pickle of one long number": (
        lambda path: path.with_suffix(".pkl").write_bytes(b"\x80\x04\x8b\xff\xff\xff\x7f."), "is not a valid pickle"),
    "a pickle of numbers": (
        lambda path: path.with_suffix(".pkl").write_bytes(b"\x80\x04" + b"K\0" * 6_000_000 + b"."), "values"),
    "a pickle of dicts": (
        lambda path: path.with_suffix(".pkl").write_bytes(b"\x80\x04" + b"}" * 6_000_000 + b"."), "values"),
    "an empty pickle": (lambda path: path.with_suffix(".pkl").write_bytes(b""), "empty file"),
}  # fmt: skip


def table(text: str | bytes) -> Callable[[Path], None]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda path: path.with_suffix(".csv").write_bytes(data) and None


def parquet_table(path: Path) -> None:
    """A small file that holds a text of a megabyte 2,000 times."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    long = pyarrow.array(["x" * 10**6] * 2000).dictionary_encode()
    table = pyarrow.table({"url": long, "label": ["benign", "malicious"] * 1000})
    parquet.write_table(table, path.with_suffix(".parquet"))


ROWS = "".join(f"https://example.com/{n},{'benign' if n % 2 else 'malicious'}\n" for n in range(40))
BAD_TABLES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a field of 10^8": (
        table(b"url,label\n" + b"x" * 10**8 + b",benign\n" + ROWS.encode()),
        "line 2: is not valid CSV: a field has over 131,072 characters",
    ),
    "a long text many times": (parquet_table, "row 1: the URL has over 131,072 characters"),
    "a quotation without end": (table("url,label\n" + ROWS + '"' + "x" * 10**6), "is not valid CSV"),
    "NUL": (table("url,label\nhttps://a\0b,benign\n" + ROWS), "line 2: the URL has a control character"),
    "an escape": (table("url,label\nhttps://a\x1b[2J,benign\n" + ROWS), "line 2: the URL has a control character"),
    "a class with an escape": (
        table("url,label\nhttps://a,be\x9bnign\n" + ROWS),
        "line 2: the class has a control character",
    ),
    "UTF-16 without its mark": (table(("url,label\n" + ROWS).encode("utf-16-le")), "is not a text file"),
    "latin-1": (
        table("url,label\nhttps://é,benign\n".encode("latin-1")),
        "line 2: the URL has a control character, a line break, or bytes that are not UTF-8",
    ),
    "a million columns": (table("x," * 10**6 + "url,label\n" + ROWS), "has a line of over"),
    "no columns": (table("\n" * 1000), "is empty"),
    "a pickle": (table(pickle.dumps({"url": 1})), "is not a text file"),
    "a class for each of 10^5 rows": (
        table("url,label\n" + "".join(f"u{n},c{n}\n" for n in range(10**5))),
        "has 100,000 classes (limit 10,000)",
    ),
}


def laughs(lines: int) -> str:
    """Return a text that stands for 10**lines values."""
    first = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
    return first + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, lines))


def merged(lines: int) -> str:
    """Return keys that are merged into others, twice at each level."""
    first = "a0: &a0 {x: 1}\n"
    return first + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n  k{n}: 1\n" for n in range(1, lines))


BAD_TEXTS: dict[str, bytes] = {
    "billion laughs": laughs(30).encode(),
    "billion laughs, one line": ("a: " + "[" + "&a [x], " + "*a, " * 5000 + "]").encode(),
    "merged keys": merged(40).encode(),
    "5,000 flow lists": b"a: " + b"[" * 5000 + b"]" * 5000,
    "5,000 flow mappings": b"a: " + b"{b: " * 5000 + b"1" + b"}" * 5000,
    "5,000 open lists": b"a: " + b"[" * 5000,
    "5,000 blocks": b"".join(b" " * n + b"a:\n" for n in range(1300)) + b" " * 1301 + b"1\n",
    "5,000 dashes": b"a:\n" + b"- " * 5000 + b"1\n",
    "5,000 questions": b"? " * 5000 + b"1\n",
    "apply": b"a: !!python/object/apply:os.system ['touch ran']\n",
    "apply with arguments": b"!!python/object/apply:subprocess.check_call\nargs: [[touch, ran]]\n",
    "new": b"a: !!python/object/new:type\nargs: [x, !!python/tuple [], {extend: !!python/name:exec }]\n",
    "name": b"a: !!python/name:os.system\n",
    "module": b"a: !!python/module:os\n",
    "a tag of its own": b"a: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch ran']\n",
    "a tag by %TAG": b"%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ['touch ran']\n",
    "binary": b"a: !!binary " + b"A" * 1000 + b"\n",
    "a key twice": b"task: dbbd\ntask: image_classification\n",
    "100 MB of scalars": b"a: [" + b"1, " * 33_000_000 + b"]\n",
    "100 MB of one scalar": b"a: " + b"x" * 100_000_000 + b"\n",
    "a megabyte of scalars": b"a: [" + b"1, " * 300_000 + b"]\n",
    "a megabyte of keys": b"".join(b"k%d: 1\n" % n for n in range(90_000)),
    "a megabyte of quotation": b'a: "' + b"\\\\" * 450_000,
    "a megabyte of anchors": b"a: [" + b"&a x, " * 150_000 + b"]\n",
    "a megabyte of comments": b"#\n" * 450_000 + b"a: [\n",
    "a number of 10^6 digits": b"seed: " + b"9" * 900_000 + b"\n",
    "a number of 10^300000": b"seed: 1e300000\n",
    "NUL": b"task: dbbd\0\n",
    "an escape": b"task: \x1b[2J\n",
    "UTF-16": "task: dbbd\n".encode("utf-16"),
    "no UTF-8": b"task: \xff\xfe\n",
    "half a pair": b"task: \xed\xa0\x80\n",
    "a pickle": pickle.dumps({"task": "dbbd"}),
    "two documents": b"task: dbbd\n---\ntask: dbbd\n",
    "a list": b"- 1\n",
    "nothing": b"",
}
"""Files that are not a configuration."""


def dbbd(*arguments: str | Path) -> tuple[int, str]:
    """Run a command in this process; return exit code and output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stderr + result.stdout


class Costs:
    """Runs commands, and records the maximum of time and memory."""

    def __init__(self) -> None:
        self.seconds = self.megabytes = 0.0
        self.slowest = self.largest = ""

    def run(self, name: str, *arguments: str | Path) -> tuple[int, str]:
        start = time.process_time()
        with peak_memory() as megabytes:
            outcome = dbbd(*arguments)
            used = megabytes()
        seconds = time.process_time() - start
        if seconds > self.seconds:
            self.seconds, self.slowest = seconds, name
        if used > self.megabytes:
            self.megabytes, self.largest = used, name
        return outcome

    def __str__(self) -> str:
        return f"at most {self.seconds:.1f} s ({self.slowest}) and {self.megabytes:.0f} MB ({self.largest})"


def problem(outcome: tuple[int, str], code: int, *said: str) -> str:
    """Return what is wrong with the outcome of a command; empty if nothing is."""
    found, printed = outcome
    flat = " ".join(printed.split())
    if found != code:
        return f"exit {found}: {printed[-300:]}"
    missing = [text for text in said if text not in flat]
    if missing:
        return f"does not say {missing}: {printed[-300:]}"
    return "control characters" if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed) else ""


def check(wrong: Sequence[str], costs: Costs, seconds: float) -> None:
    assert not wrong, "\n".join(wrong)
    assert costs.megabytes < MEGABYTES, costs
    assert costs.seconds < seconds, costs


def good_pictures(folder: Path) -> None:
    for number in range(8):
        kind = folder / ("cat" if number % 2 else "dog")
        kind.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 80, 90)).save(kind / f"{number}.png")


def picture_options(folder: Path) -> list[str]:
    return [
        *without(TINY["image_classification"], "data.sample_per_class"), "--epochs", "1", "--quiet",
        "--set", "data.source=folder", "--set", f"data.path={folder / 'pictures'}",
        "--set", f"run.runs_dir={folder / 'runs'}", "--set", f"data.cache_dir={folder / 'cache'}",
    ]  # fmt: skip


def test_no_picture_fills_the_memory(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    good_pictures(tmp_path / "pictures")
    costs, wrong = Costs(), []
    for name, (make, reason) in BAD_IMAGES.items():
        path = tmp_path / "pictures" / "cat" / name
        path.write_bytes(make())
        found = problem(costs.run(name, "train", *picture_options(tmp_path)), 3, str(path), reason)
        wrong += [f"{name}: {found}"] if found else []
        path.unlink()
    report(f"{len(BAD_IMAGES)} pictures, {len(wrong)} wrong; {costs}")
    assert not (tmp_path / "runs").exists()
    check(wrong, costs, count(60, SECONDS))


def test_bad_pictures_can_be_left_out_and_rare_ones_are_used(tmp_path: Path) -> None:
    good_pictures(tmp_path / "pictures")
    for name, (make, _) in BAD_IMAGES.items():
        (tmp_path / "pictures" / "cat" / name).write_bytes(make())
    for name, make in ODD_IMAGES.items():
        (tmp_path / "pictures" / "dog" / name).write_bytes(make())
    code, printed = dbbd("train", *picture_options(tmp_path), "--set", "data.on_error=skip")
    assert code == 0, printed
    (run_folder,) = (tmp_path / "runs").iterdir()
    splits = json.loads((run_folder / "splits.json").read_text())
    assert {Path(line.split(": ")[0]).name for line in splits["skipped"]} == set(BAD_IMAGES)
    for line in splits["skipped"]:
        name, reason = line.split(": ", 1)
        assert BAD_IMAGES[Path(name).name][1] in reason
    used = {Path(sample["path"]).name for sample in splits["samples"]}
    assert set(ODD_IMAGES) <= used
    assert not used & set(BAD_IMAGES)


def test_no_scene_fills_the_memory(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    costs, wrong = Costs(), []
    chosen = list(BAD_SCENES.items())[:: int(count(2, 1))]
    for number, (name, (write, reason)) in enumerate(chosen):
        root = tmp_path / str(number)
        for split in ("train", "val"):
            (root / split).mkdir(parents=True)
            pickled()(root / split / "good")
        write(root / "train" / "bad")
        options = ("--config", "smoke_dbbd", "--quiet", "--set", "data.source=folder", "--set", f"data.path={root}")
        where = ("--set", f"run.runs_dir={tmp_path / 'runs'}", "--set", f"data.cache_dir={tmp_path / 'cache'}")
        found = problem(costs.run(name, "train", *options, *where), 3, str(root / "train" / "bad"), reason)
        wrong += [f"{name}: {found}"] if found else []
        shutil.rmtree(root)
    report(f"{len(chosen)} scenes, {len(wrong)} wrong; {costs}")
    assert not (tmp_path / "runs").exists()
    check(wrong, costs, count(60, SECONDS))


def test_bad_scenes_can_be_left_out(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(4):
            pickled(coords=COORD + number)(root / split / f"good{number}")
    names = {}
    for number, name in enumerate(list(BAD_SCENES)[::4]):
        BAD_SCENES[name][0](root / "train" / f"bad{number}")
        names[f"bad{number}"] = BAD_SCENES[name][1]
    options = [*without(TINY["dbbd"], "data.synthetic_"), "--epochs", "1", "--quiet", "--set", "data.on_error=skip"]
    where = ["--set", "data.source=folder", "--set", f"data.path={root}", "--set", f"run.runs_dir={tmp_path / 'runs'}"]
    code, printed = dbbd("train", *options, *where)
    assert code == 0, printed
    (run_folder,) = (tmp_path / "runs").iterdir()
    splits = json.loads((run_folder / "splits.json").read_text())
    assert len(splits["skipped"]) == len(names)
    for name, reason in names.items():
        (line,) = [line for line in splits["skipped"] if Path(line.split(":")[0].split(" was ")[0]).stem == name]
        assert reason in line
    assert [sample["path"] for sample in splits["samples"]][:4] == [f"train/good{number}.pkl" for number in range(4)]


def test_no_table_fills_the_memory(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    costs, wrong = Costs(), []
    path = tmp_path / "urls.csv"
    for name, (write, reason) in BAD_TABLES.items():
        write(path)
        made = path.with_suffix(".parquet") if write is parquet_table else path
        options = (*picture_options(tmp_path), "--set", "data.source=urls", "--set", f"data.path={made}")
        found = problem(costs.run(name, "train", *options), 3, made.name, reason)
        wrong += [f"{name}: {found}"] if found else []
    report(f"{len(BAD_TABLES)} tables, {len(wrong)} wrong; {costs}")
    check(wrong, costs, count(60, SECONDS))


def test_invalid_texts_are_not_taken_for_a_configuration(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    costs, wrong = Costs(), []
    path = tmp_path / "config.yaml"
    for name, text in BAD_TEXTS.items():
        path.write_bytes(text)
        found = problem(costs.run(name, "train", "--config", path), 2, "config.yaml")
        wrong += [f"{name}: {found}"] if found else []
    some = list(BAD_TEXTS.items())[:: int(count(3, 1))]
    for name, text in some:
        if len(text) < 100_000 and b"\0" not in text and text.isascii() and name not in ("a list", "nothing"):
            value = f"data={text.decode()}"  # a section is read as YAML; other values are taken literally
            found = problem(costs.run(f"--set of {name}", "train", "--config", "qr_cnn", "--set", value), 2)
            wrong += [f"--set of {name}: {found}"] if found else []
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    row = {"kind": "epoch", "epoch": 1, "step": 1, "train": {"loss": 1.0}, "val": {"loss": 1.0}}
    (run_folder / "history.jsonl").write_text(json.dumps(row) + "\n")
    for name, text in some:
        (run_folder / "config.yaml").write_bytes(text)
        # Here bytes that are not text become U+FFFD, and the seed is not used.
        if name not in ("half a pair", "no UTF-8") and not text.startswith(b"seed"):
            found = problem(costs.run(f"plot of {name}", "plot", run_folder), 4, "config.yaml")
            wrong += [f"plot of {name}: {found}"] if found else []
    report(f"{len(BAD_TEXTS)} texts, {len(wrong)} wrong; {costs}")
    assert not list(tmp_path.glob("ran*"))
    assert not Path("ran").exists()
    check(wrong, costs, count(60, 1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures as Linux counts")
def test_the_program_needs_little_more_than_for_a_small_file(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    """As processes: all bad pictures at once, and bad scenes, compared with a picture of four bytes."""

    def measured(name: str, options: Sequence[str]) -> tuple[float, float]:
        code, printed, seconds, megabytes = measure("train", *options, folder=tmp_path)
        assert code == 3, (name, printed)
        if seconds > SECONDS:  # other programs use the processor, too: the better of two
            seconds = min(seconds, measure("train", *options, folder=tmp_path)[2])
        return seconds, megabytes

    good_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "cat" / "small.png").write_bytes(b"text")
    least = measured("small", picture_options(tmp_path))
    for name, (make, _) in BAD_IMAGES.items():
        (tmp_path / "pictures" / "cat" / name).write_bytes(make())
    found = {"pictures": measured("pictures", picture_options(tmp_path))}
    chosen = list(BAD_SCENES.items())[:: int(count(60, 1))]
    for number, (name, (write, _)) in enumerate(chosen):
        root = tmp_path / "scenes" / str(number)
        for split in ("train", "val"):
            (root / split).mkdir(parents=True)
            pickled()(root / split / "good")
        write(root / "train" / "bad")
        options = ["--config", "smoke_dbbd", "--set", "data.source=folder", "--set", f"data.path={root}"]
        found[name] = measured(name, [*options, "--set", f"data.cache_dir={tmp_path / 'cache'}"])
    seconds = max(found, key=lambda name: found[name][0])
    megabytes = max(found, key=lambda name: found[name][1])
    more = found[seconds][0] - least[0], found[megabytes][1] - least[1]
    report(f"{len(found)} processes: at most {more[0]:+.1f} s ({seconds}) and {more[1]:+.0f} MB ({megabytes})")
    assert more[1] < MEGABYTES, found
    assert more[0] < count(60, SECONDS), found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures as Linux counts")
def test_the_program_reports_a_bad_configuration_within_a_second(
    tmp_path: Path, count: Callable[[float, float], float], report: Callable[[str], None]
) -> None:
    most, slowest = 0.0, ""
    chosen = list(BAD_TEXTS.items())[:: int(count(18, 1))]
    for name, text in chosen:
        (tmp_path / "config.yaml").write_bytes(text)
        code, printed, seconds, _ = measure("train", "--config", "config.yaml", folder=tmp_path)
        assert code == 2, (name, printed)
        if seconds > 1:  # other programs use the processor, too: the better of two
            seconds = min(seconds, measure("train", "--config", "config.yaml", folder=tmp_path)[2])
        if seconds > most:
            most, slowest = seconds, name
    report(f"{len(chosen)} processes: at most {most:.2f} s of processor time, including start-up ({slowest})")
    assert most < count(60, 1), slowest
