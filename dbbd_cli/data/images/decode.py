"""The bytes of an image file become pixels, or an error that says in plain words what is wrong with them."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from PIL import BmpImagePlugin, ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from dbbd_cli.data.images.formats import (
    FORMAT_OF_SUFFIX,
    HEAD_BYTES,
    OPTIONAL,
    can_read,
    how_to_read,
    image_format,
    unread_format,
    with_article,
)
from dbbd_cli.data.images.heif_boxes import decoded_pixels
from dbbd_cli.data.images.netpbm import netpbm_header, read_netpbm
from dbbd_cli.data.images.pieces import ImageFileError as ImageFileError
from dbbd_cli.data.images.pieces import check_pieces, check_scans, tags_are_sound

MAX_PIXELS = 90_000_000
MAX_MEMORY = 400_000_000
"""Largest picture that is decoded, pixels and bytes; beyond it a small file could fill the memory."""

MAX_SIDE = 100_000
"""Largest width and height: to make a picture small, PIL keeps 16 bytes for each pixel of a side."""

MAX_DECODED_TIMES, MAX_DECODED_SLACK = 8, 1 << 22
"""Limit on the pixels of all parts of a HEIC or AVIF (tiles, transparency): a multiple of its size, plus slack."""

MAX_RUN_LENGTH_PIXELS = 4_000_000
"""The same of a BMP that is compressed: PIL decodes it in Python, four million pixels in a second."""

_MOST_EXIF_TEXT = 100_000
_STRIP_PIXELS = 1_000_000
_DECODER_BYTES = {"WEBP": 12, "GIF": 4, "TIFF": 4, "HEIF": 4, "AVIF": 5}
_NETPBM_BYTES = 6
"""The same for each value of a NetPBM image; plain text takes the most."""
_PIL_NAMES = {"HEIC": "HEIF"}
"""Formats that have another name in PIL."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that undoes it."""


class MissingReaderError(ImageFileError):
    """The image is in a format that this environment cannot read."""


def decode_image(data: bytes, suffix: str, size: int) -> np.ndarray:
    """Decodes the content of an image file and resizes it, without keeping its proportions.

    Orientation is undone, transparency becomes white, 16-bit values are scaled to 8 bits.

    Args:
        data: the whole content of the file.
        suffix: the suffix of its name, such as ".png"; it must fit the content.
        size: height and width of the result, pixels.

    Returns:
        Array of shape (size, size, 3), uint8, RGB.

    Raises:
        ImageFileError: the content is no image, is damaged, too large, or not what the suffix says.
        MissingReaderError: the format needs an optional library that is not installed.
    """
    announced = _known_format(data, suffix)
    try:
        if announced == "PNM":
            return _resized(_netpbm(data), size)
        scans = check_pieces(data, announced)
        pixels = decoded_pixels(data) if announced in OPTIONAL else 0
        with warnings.catch_warnings():
            # PIL warns of large pictures, which the limit here is about, and of odd metadata, which nothing uses.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[_PIL_NAMES.get(announced, announced)]) as image:
                _scale_transparent_color(image, data)
                if pixels > MAX_DECODED_TIMES * image.width * image.height + MAX_DECODED_SLACK:
                    raise ImageFileError(f"its parts have {pixels:,} pixels, far more than its size justifies")
                return _decode(image, scans, size)
    except ImageFileError:
        raise
    except Exception as error:  # PIL's parsers raise whatever the bytes lead them to: SyntaxError, KeyError, zlib.error
        raise ImageFileError(_reason(error)) from error


def _known_format(data: bytes, suffix: str) -> str:
    """The format of the data, which the suffix must fit and which can be read."""
    if not data:
        raise ImageFileError("empty file")
    announced = image_format(data[:HEAD_BYTES])
    if announced is None:
        unread = unread_format(data[:HEAD_BYTES])
        raise ImageFileError(f"is {with_article(unread)}, a format that is not read" if unread else "not an image")
    named = announced == FORMAT_OF_SUFFIX.get(suffix.lower()) or (announced == "AVIF" and suffix.lower() == ".heif")
    readable = can_read(announced)
    if named and readable:
        return announced
    name = "" if named else f"is {with_article(announced)} but named {suffix or 'without a suffix'}"
    install = "" if readable else f"{announced} is read after: {how_to_read(announced)}"
    reason = "; ".join(part for part in (name, install) if part)
    raise ImageFileError(reason) if readable else MissingReaderError(reason)


def _netpbm(data: bytes) -> Image.Image:
    kind, width, height, *_ = netpbm_header(data)
    _check_size(width, height)
    _check_memory((width, height), width * height * (3 if kind in (3, 6) else 1) * _NETPBM_BYTES)
    return Image.fromarray(read_netpbm(data))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageFileError(f"too large: {width} x {height} pixels (limit {MAX_PIXELS:,} in all)")
    if max(width, height) > MAX_SIDE:
        raise ImageFileError(f"too large: {width} x {height} pixels (limit {MAX_SIDE:,} on a side)")


def _check_memory(size: tuple[int, int], needed: int) -> None:
    if needed > MAX_MEMORY:
        raise ImageFileError(
            f"too large: {size[0]} x {size[1]} pixels of this kind take more than {MAX_MEMORY // 10**6} MB to decode"
        )


def _scale_transparent_color(image: Image.Image, data: bytes) -> None:
    """Converts the transparent color of a PNG, which has as many bits as the file, to the 8 that PIL decodes to."""
    color = image.info.get("transparency")
    if image.format != "PNG" or data[12:16] != b"IHDR":
        return
    bits = data[24]
    if isinstance(color, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and image.mode in ("1", "L"):
        image.info["transparency"] = color * 255 // ((1 << bits) - 1)


def _decode(image: Image.Image, scans: int, size: int) -> np.ndarray:
    in_runs = isinstance(image, BmpImagePlugin.BmpImageFile) and image.tile and image.tile[0][0] == "bmp_rle"
    if in_runs and image.width * image.height > MAX_RUN_LENGTH_PIXELS:
        raise ImageFileError(
            f"too large: {image.width} x {image.height} pixels in runs (limit {MAX_RUN_LENGTH_PIXELS:,} in such a BMP)"
        )
    _check_size(image.width, image.height)
    check_scans(scans, image.width * image.height)
    needed = max(image.width * image.height * _decoder_bytes(image), _tile_bytes(image))
    whole = image.size
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size, several times faster
    _check_memory(whole, needed + image.width * image.height * _picture_bytes(image))
    image.load()
    # Some formats are turned while they load, so that the orientation is known only now.
    orientation = _orientation(image)
    return _resized(_to_rgb(image), size, orientation)


def _resized(image: Image.Image, size: int, orientation: object = None) -> np.ndarray:
    small = image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB")
    if orientation in _UPRIGHT:
        small = small.transpose(_UPRIGHT[orientation])
    return np.array(small)


def _tile_bytes(image: Image.Image) -> int:
    """Bytes of a tile, where a picture lies in tiles: one may be larger than the picture."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    tags = image.tag_v2
    pixels = int(tags.get(TiffImagePlugin.TILEWIDTH, 0)) * int(tags.get(TiffImagePlugin.TILELENGTH, 0))
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    return pixels * int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)) * -(-int(bits) // 8)


def _decoder_bytes(image: Image.Image) -> int:
    """Bytes that a decoder takes for each pixel, beside the picture that it makes."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # One that is stored in several passes is kept whole until the last, in 16 bits.
        sizes = [across * down for _, across, down, _ in image.layer]
        return -(-2 * sum(sizes) // max(sizes))
    return _DECODER_BYTES.get(image.format or "", 0)


def _picture_bytes(image: Image.Image) -> int:
    """Bytes that the decoded picture takes for each pixel, with the one in RGB that is made of it."""
    own = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    return own + (0 if image.mode in _AS_THEY_ARE else 4)


def _orientation(image: Image.Image) -> object:
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if (exif is not None and not tags_are_sound(exif)) or (text is not None and len(text) > _MOST_EXIF_TEXT):
        return None
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged note about the camera is no reason to give up a whole picture
        return None


_AS_THEY_ARE = ("L", "RGB")
"""Modes whose pictures can be resized before they are made RGB: the result is the same."""


def _to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, or in gray."""
    if image.mode in ("I", "F") and image.format != "PNG":
        raise ImageFileError("has 32-bit pixels, whose black and white are not defined; save it with 8 or 16 bits")
    if image.mode in _AS_THEY_ARE and not image.has_transparency_data:
        return image
    # In strips: a second and third picture of the size of the first would take several times the memory.
    whole = Image.new("RGB", image.size)
    height = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        whole.paste(_strip_to_rgb(strip, image), (0, top))
    return whole


def _strip_to_rgb(strip: Image.Image, image: Image.Image) -> Image.Image:
    """A part of a picture in RGB; `image` is the whole, which knows its format."""
    if strip.mode.startswith("I"):
        # PIL would clip at 255 instead of scaling. It offers the 12-bit grays of a TIFF in this mode too, as they are.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
        values = np.asarray(strip).astype(np.uint32)
        gray = ((values * 255 + white // 2) // white).astype(np.uint8)
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is 0, which PIL leaves as it is
            gray = 255 - gray
        if isinstance(color := image.info.get("transparency"), int):
            gray[values == color] = 255
        return Image.fromarray(gray).convert("RGB")
    if strip.has_transparency_data:
        colored = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), colored).convert("RGB")
    return strip.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):  # raised by PIL before the size is known here
        return f"too large: more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "too large for the memory that is free"
    if isinstance(error, (EOFError, struct.error)) or "truncated" in str(error).lower():
        return "truncated"
    return "damaged, incomplete or of an unsupported kind"
