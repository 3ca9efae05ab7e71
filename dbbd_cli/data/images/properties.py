"""Trivial properties of images, and which images look the same."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.images.cache import Pixels
from dbbd_cli.data.images.decode import readable_formats
from dbbd_cli.data.images.qr_version import qr_version
from dbbd_cli.data.images.refs import ImageRef, Part, open_image_file
from dbbd_cli.data.images.url_pictures import read_versions
from dbbd_cli.data.properties import Property, Relation, categories, numbers
from dbbd_cli.data.urls.properties import url_properties

MAX_DIFFERENT_BITS = 4
MAX_DIFFERENCE = 8
"""Two images look the same if at most this many bits of their 64-bit hashes differ, and their thumbnails by at most
this mean difference of gray values, 0 to 255."""
MAX_COMPARED = 20_000
"""Beyond this many different hashes, only images with equal hashes count as similar."""

_ONE_FORMAT = "save the images of all classes again, in one format with the same settings"
_ONE_SIZE = "crop or pad the images of all classes to one size"
_ONE_BRIGHTNESS = "record the images of all classes in the same way, or raise data.augment.brightness"
_ONE_VERSION = "longer URLs make larger codes: use codes of one version, or report this rule next to the results"
_SAME_LENGTHS = "see length: longer URLs make larger codes"
_TIFF_BITS_PER_SAMPLE = 258
_BITS_OF_MODE = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}
_TRIED_FOR_CODES = 64
"""Files that are tried before the codes of all are read."""
_BLOCK = 1024
_THUMBNAIL = 32


class ImageHeader(NamedTuple):
    """What a file says of its image before it is decoded; for an unreadable file, NaN and "unknown"."""

    width: float = math.nan
    height: float = math.nan
    file_size: float = math.nan
    bit_depth: float = math.nan
    mode: str = "unknown"
    format: str = "unknown"


def read_header(path: str, part: Part | None = None) -> ImageHeader:
    """Read the header of an image file without decoding it; for the arguments, see `ImageRef`.

    It is read in this process, so the file must have been decoded before, by the supervised ones of `processes`.
    """
    try:
        with open_image_file(path, part) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = file.read(26)
            file.seek(0)
            with Image.open(file, formats=readable_formats(head)) as image:
                size = file.seek(0, os.SEEK_END) if part is None else part.size
                bits = _bit_depth(image, head)
                return ImageHeader(image.width, image.height, size, bits, image.mode, image.format or "unknown")
    except Exception:  # removed or replaced since it was decoded; PIL's parsers raise anything
        return ImageHeader()


def _bit_depth(image: Image.Image, head: bytes) -> int:
    if image.format == "PNG" and head[12:16] == b"IHDR":
        return head[24]
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (1,))  # 1 is the default of TIFF
        return int(bits[0] if isinstance(bits, tuple) else bits)
    return _BITS_OF_MODE.get(image.mode, 8)


def file_properties(refs: Sequence[ImageRef]) -> list[Property]:
    """Width, height, file size, bit depth, mode and format of image files that have been decoded before.

    Nothing is returned if none of the files is there any more.
    """
    headers = [read_header(ref.path or "", ref.part) for ref in refs]
    if all(header.format == "unknown" for header in headers):
        return []
    return [
        numbers("width", [header.width for header in headers], _ONE_SIZE),
        numbers("height", [header.height for header in headers], _ONE_SIZE),
        numbers("file size", [header.file_size for header in headers], _ONE_FORMAT),
        numbers("bit depth", [header.bit_depth for header in headers], _ONE_FORMAT),
        categories("mode", [header.mode for header in headers], _ONE_FORMAT),
        categories("format", [header.format for header in headers], _ONE_FORMAT),
    ]


def rendered_properties(urls: Sequence[str]) -> list[Property]:
    """The properties of URLs, and the versions of their QR codes."""
    return [*url_properties(urls), numbers("QR version", [qr_version(url) for url in urls], _SAME_LENGTHS)]


def file_code_properties(refs: Sequence[ImageRef], progress: Progress) -> list[Property]:
    """The versions of the QR codes in image files, which are read in worker processes; nothing if there are no codes.

    Whether there are any is tried with a few files.
    """
    tried = refs[:: max(1, len(refs) // _TRIED_FOR_CODES)]
    if all(math.isnan(version) for version in read_versions(tried, Silent())):
        return []
    return [numbers("QR version", read_versions(refs, progress), _ONE_VERSION)]


def pixel_properties(pixels: Pixels | np.ndarray, rows: Sequence[int] | np.ndarray) -> list[Property]:
    """The mean gray, 0 to 255, of some rows of prepared images `(N, C, S, S)`, from every fourth pixel."""
    gray = [float(pixels[row][:, ::4, ::4].mean()) for row in rows]
    return [numbers("mean gray", gray, _ONE_BRIGHTNESS)]


def pixel_relations(pixels: Pixels | np.ndarray, rows: Sequence[int]) -> list[Relation]:
    """Groups of rows of prepared images `(N, C, S, S)` that look the same, also in other sizes and formats."""
    grays = [_gray(pixels[row]) for row in rows]
    hashes = np.array([difference_hash(gray) for gray in grays], dtype=np.uint64)
    size = (_THUMBNAIL, _THUMBNAIL)
    thumbnails = np.stack([np.asarray(gray.resize(size, Image.Resampling.BOX)) for gray in grays]).astype(np.int16)
    return [Relation("similar pixels", similar_groups(hashes, thumbnails), "remove all but one of them")]


def _gray(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.mean(axis=0).astype(np.uint8) if len(pixels) > 1 else pixels[0])


def difference_hash(gray: Image.Image) -> int:
    """The 64-bit difference hash of a gray image: whether each of 8 x 8 cells is brighter than its left neighbor."""
    cells = np.asarray(gray.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def similar_groups(hashes: np.ndarray, thumbnails: np.ndarray) -> list[int | None]:
    """The group of each of N images that look the same, None for an image that looks like no other.

    Hashes alone would not do: those of QR codes, which all have the same corners, agree too often by chance.

    Args:
        hashes: `(N,)`, uint64.
        thumbnails: `(N, T, T)`, int16, 0 to 255.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    distinct, firsts, positions = np.unique(hashes, return_index=True, return_inverse=True)
    left, right = _close_pairs(distinct) if len(distinct) <= MAX_COMPARED else np.empty((2, 0), dtype=np.int64)
    alike = _look_alike(thumbnails[firsts[left]], thumbnails[firsts[right]])
    left, right = left[alike], right[alike]
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(len(distinct), len(distinct)))
    groups = connected_components(graph, directed=False)[1]
    own = _look_alike(thumbnails, thumbnails[firsts[positions]])
    return [int(groups[place]) if holds else None for place, holds in zip(positions, own, strict=True)]


def _close_pairs(hashes: np.ndarray) -> np.ndarray:
    """The pairs `(2, P)` of different positions whose hashes differ in at most `MAX_DIFFERENT_BITS` bits."""
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, len(hashes), _BLOCK):
        bits = hashes[start : start + _BLOCK, None] ^ hashes[None, start:]
        for _ in range(MAX_DIFFERENT_BITS):
            bits &= bits - np.uint64(1)  # clears the lowest bit that is set
        found = np.stack(np.nonzero(bits == 0)) + start
        pairs.append(found[:, found[0] < found[1]])
    return np.concatenate(pairs, axis=1)


def _look_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether thumbnails `(P, T, T)` differ by at most `MAX_DIFFERENCE` in the mean, `(P,)` bool."""
    return np.abs(one - other).mean(axis=(1, 2)) <= MAX_DIFFERENCE
