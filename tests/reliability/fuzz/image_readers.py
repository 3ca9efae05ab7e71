"""Readers of pictures and of the image cache."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import tarfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL
from PIL import Image
from reader import Reader, check_lines, require, write_once

from dbbd_cli.core.progress import Silent

# Only the functions that look for a cache, not those that create one, which render pictures.
from dbbd_cli.data.checked_file import append_checksums
from dbbd_cli.data.images.cache import _entry, _existing_entry
from dbbd_cli.data.images.decode import ImageFileError, decode_image
from dbbd_cli.data.images.formats import can_read
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.refs import ImageRef, ImageRefs
from dbbd_cli.data.images.shard_index import Keys, ShardError, index_shard
from dbbd_cli.data.urls.cleaning import url_sha256

SIZE = 8


def picture(data: bytes, _: Path) -> None:
    pixels = decode_image(data, SIZE)
    require(type(pixels) is np.ndarray and pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8, "odd pixels")
    pixels.tobytes()


PLAIN_NETPBM = (
    b"P1\n# a comment\n3 2\n1 0 1\n011",
    b"P2 3 2 4095\n1 2 3\n4 5 # 6\n4095 7",
    b"P3 1 2 255\n1 2 3\n4 5 6\n",
)


def pictures() -> list[bytes]:
    """Return the smallest pictures of each format, in each of its modes."""
    noise = random.Random(0).randbytes
    base = Image.frombytes("RGB", (9, 7), noise(189))
    gray = Image.frombytes("I;16", (9, 7), noise(126))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((base.convert(mode), "PNG", {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((gray, "PNG", {}), (base, "PNG", {"exif": exif}), (base.convert("P"), "PNG", {"transparency": 3})),
        *((base, "JPEG", {"exif": exif}), (base.convert("L"), "JPEG", {"progressive": True})),
        *((base.convert("CMYK"), "JPEG", {}), (base, "BMP", {}), (base.convert("P"), "BMP", {})),
        *((base.convert("1"), "BMP", {}), (base, "WEBP", {}), (base, "WEBP", {"lossless": True, "exif": exif})),
        (base.convert("P"), "GIF", {"transparency": 0}),
        (base, "GIF", {"save_all": True, "append_images": [base.rotate(90)]}),
        *((base, "TIFF", {"compression": name}) for name in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        *((gray, "TIFF", {}), (base.convert("P"), "TIFF", {}), (base.convert("RGBA"), "TIFF", {"exif": exif})),
        *((base.convert(mode), "PPM", {}) for mode in ("1", "L", "RGB")),
        *((gray, "PPM", {}), (gray, "PNG", {"transparency": 7})),
    ]
    if can_read("HEIF"):
        kinds += [(base, "HEIF", {"exif": exif}), (base.convert("RGBA"), "HEIF", {}), (base.convert("L"), "HEIF", {})]
    if can_read("AVIF"):
        animation = {"save_all": True, "append_images": [base.rotate(180).convert("RGBA")], "speed": 10}
        kinds += [(base, "AVIF", {"exif": exif, "speed": 10}), (base.convert("RGBA"), "AVIF", animation)]
    files = []
    for image, form, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return [*files, *PLAIN_NETPBM]


def sealed_png(data: bytes) -> bytes:
    """Return the data with correct checksums of all chunks, if it is a PNG."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    sealed, start = bytearray(data), 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            break
        sealed[end : end + 4] = zlib.crc32(data[start + 4 : end]).to_bytes(4, "big")
        start = end + 4
    return bytes(sealed)


_REFS = [ImageRef(url_sha256(url), url=url) for url in ("https://a.example", "https://b.example", "https://c.example")]
_SHAPE = (1, SIZE, SIZE)


def image_cache(data: bytes, folder: Path) -> None:
    """Read the data as a record of bad pictures, or as a cache file if it is not a record."""
    whole, good = (folder / image_cache_name(refs) for refs in (_REFS, _REFS[1:]))
    if data[:1] == b"{":
        write_once(whole.with_suffix(".json"), data)
        write_once(good, _cache(folder, len(_REFS[1:])))
    else:
        write_once(whole, data)
    prepared = _existing_entry(ImageRefs.of(_REFS), SIZE, folder, Silent())
    pixels = None if prepared is None else prepared.open()[:]
    for path in (whole, good, whole.with_suffix(".json")):
        path.unlink(missing_ok=True)
    if prepared is None or pixels is None:
        return
    for ref, image in zip(prepared.refs, pixels, strict=True):
        require(not image.any() or np.array_equal(image[0], render_qr(str(ref.url), SIZE)), "damaged pixels are used")
    count = len(_REFS) - len(prepared.problems)
    require(prepared.shape == (count, *_SHAPE) and prepared.problems.keys() <= {0, 1, 2}, "a cache of another shape")
    require(prepared.path in (whole, good), "a cache of something else")
    check_lines(prepared.problems.values())


def _cache(folder: Path, count: int) -> bytes:
    path = folder / "cache"
    path.write_bytes(bytes(count * math.prod(_SHAPE)))
    append_checksums(path, math.prod(_SHAPE), written=0)
    return path.read_bytes()


def image_cache_name(refs: list[ImageRef]) -> str:
    return _entry(ImageRefs.of(refs), SIZE, Path(), {}).path.name


def cache_files() -> list[bytes]:
    record = {"readers": PIL.__version__, "problems": {"0": "truncated"}}
    with TemporaryDirectory() as folder:
        return [json.dumps(record).encode(), _cache(Path(folder), len(_REFS))]


KEYS = Keys("label", "split")


def shard(data: bytes, folder: Path) -> None:
    """Index the data as a tar shard."""
    index = index_shard(write_once(folder / "a.tar", data), KEYS)
    columns = (index.offset, index.size, index.sha256, index.label, index.split)
    require({len(column) for column in columns} == {len(index.names)}, "columns of different lengths")
    for name, offset, size, digest in zip(index.names, index.offset, index.size, index.sha256, strict=True):
        require(0 <= offset <= offset + size <= len(data), "an image outside the file")
        content = data[offset : offset + size]
        require(hashlib.sha256(content).digest() == digest.tobytes(), "the digest of something else")
        require(not {"", ".", ".."} & set(name.split("/")), "a name that leaves its folder")
    require(((index.label >= 0) & (index.label < max(len(index.classes), 1))).all(), "an unknown class")
    check_lines([*index.problems, *index.names, *index.classes, *index.unread])


def shards() -> list[bytes]:
    """Return small tars of each format, with a folder, a link, long names and classes in `.cls` and `.json`."""
    png = pictures()[0]
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form, bufsize=512) as tar:
            long = f"{'b' * 90}/{'c' * 60}"
            members = {
                "a.png": png,
                "a.cls": b"cat",
                f"{long}.png": png,
                f"{long}.json": b'{"label": 3, "split": "val"}',
            }
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            for name, kind in (("d", tarfile.DIRTYPE), ("e.png", tarfile.SYMTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "a.png" * (kind == tarfile.SYMTYPE)
                tar.addfile(info)
        found.append(buffer.getvalue()[: 512 * 24])
    return found


def sealed_tar(data: bytes) -> bytes:
    """Return the data with correct checksums of all headers."""
    sealed = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        block = sealed[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            sealed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(sealed)


READERS = [
    Reader("image", picture, pictures, (ImageFileError,), sealed_png),
    Reader("image_cache", image_cache, cache_files, ()),
    Reader("shard", shard, shards, (ShardError,), sealed_tar),
]
