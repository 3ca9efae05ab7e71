"""Decode the bytes of an image file into pixels, or an error that says in plain words what is wrong with them.

Sizes are checked before anything is decoded. A file can still keep its decoder busy, or fill the memory, in ways that
its header does not show: `processes` limits time and memory.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from dbbd_cli.core.compat import jpeg_sampling, pillow_tile
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX, can_read, ways_to_read

MAX_PIXELS = 90_000_000
MAX_MEMORY = 400_000_000
"""Limits on the size of an image: pixels, and bytes that decoding takes."""
MAX_SIDE = 100_000
"""Maximum width and height: to resize an image, PIL needs 16 bytes per pixel of a side."""

_STRIP_PIXELS = 1_000_000
_DECODER_BYTES = {"WEBP": 12, "GIF": 4, "TIFF": 4, "HEIF": 4, "AVIF": 5}
"""Bytes that decoders need for each pixel, besides the decoded image."""
_FORMATS_OF_FTYP = {"HEIF", "AVIF"}
"""Formats that begin with a box of this name."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that applies it."""


class ImageFileError(ValueError):
    """An image cannot be used; the message is the reason, in plain words."""


def decode_image(data: bytes, size: int) -> np.ndarray:
    """Decode the content of an image file and resize it, without keeping its proportions.

    The EXIF orientation is applied, transparency becomes white, and 16-bit values are scaled to 8 bits.

    Args:
        data: the whole content of the file.
        size: height and width of the result, pixels.

    Returns:
        Array of shape (size, size, 3), uint8, RGB.

    Raises:
        ImageFileError: the content is not an image, is damaged or too large.
    """
    with _opened(data) as image:
        whole, orientation = _load(image, data, size)
        small = whole.resize((size, size), Image.Resampling.BILINEAR).convert("RGB")
        return np.array(_upright(small, orientation))


def decode_gray(data: bytes, max_side: int) -> np.ndarray:
    """Decode the content of an image file to gray, like `decode_image`, but with its proportions.

    Transparency becomes black in a picture that would be nothing but white otherwise.

    Args:
        data: the whole content of the file.
        max_side: maximum height and width of the result, pixels; a larger image is reduced.

    Returns:
        Array of shape (H, W), uint8.

    Raises:
        ImageFileError: the content is not an image, is damaged or too large.
    """
    with _opened(data) as image:
        whole, orientation = _load(image, data, max_side)
        if image.has_transparency_data and whole.convert("L").getextrema() == (255, 255):
            whole = _to_rgb(image, "black")
        # The longer side becomes `max_side`, the shorter one at least a pixel.
        scale = min(1.0, max_side / max(whole.size))
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        small = (whole.resize(size, Image.Resampling.BILINEAR) if scale < 1 else whole).convert("L")
        return np.array(_upright(small, orientation))


def has_more_frames(data: bytes) -> bool:
    """Return whether an image file has frames or pages beyond the first, which is the only one that is decoded.

    Args:
        data: the whole content of the file.

    Raises:
        ImageFileError: the content is not an image, or is damaged.
    """
    with _opened(data) as image:
        # The further images in the MPO files of phones are previews and maps of brightness.
        return image.format != "MPO" and getattr(image, "is_animated", False)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open the content of an image file; errors within the context become an `ImageFileError`."""
    if not data:
        raise ImageFileError("empty file")
    if data[4:12] == b"ftypheic" and (ways := ways_to_read([".heic"])):
        raise ImageFileError(f"is a HEIC image; to read it: {ways['.heic']}")
    try:
        with warnings.catch_warnings():
            # PIL warns about large images, for which there is a limit here, and about odd metadata, which is unused.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=readable_formats(data)) as image:
                _scale_transparent_color(image, data)
                yield image
    except ImageFileError:
        raise
    except Exception as error:  # PIL's parsers raise anything on damaged bytes: SyntaxError, KeyError, zlib.error
        raise ImageFileError(_reason(error)) from error


def readable_formats(data: bytes) -> list[str]:
    """The formats, as Pillow names them, that a file may have whose content begins with `data`, at least 8 bytes."""
    # The reader of HEIC is loaded only for files that may be one.
    is_ftyp = data[4:8] == b"ftyp"
    # The most common ones come first: Pillow tries them in this order, and loads the readers of the others on demand.
    names = dict.fromkeys(FORMAT_OF_SUFFIX.values())
    return [name for name in names if (name in _FORMATS_OF_FTYP) == is_ftyp and can_read(name)]


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
    """Scale the transparent color of a PNG, which has the bit depth of the file, to the 8 bits that PIL decodes to."""
    color = image.info.get("transparency")
    if image.format != "PNG" or data[12:16] != b"IHDR":
        return
    bits = data[24]
    if isinstance(color, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif isinstance(color, int) and image.mode in ("1", "L"):
        image.info["transparency"] = color * 255 // ((1 << bits) - 1)


def _load(image: Image.Image, data: bytes, size: int) -> tuple[Image.Image, object]:
    """Return an image in RGB or gray, in a size that serves for `size` pixels a side, and its orientation."""
    _check_size(image.width, image.height)
    whole, needed = image.size, image.width * image.height * _decoder_bytes(image)
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size, several times faster
    _check_memory(whole, needed + image.width * image.height * _image_bytes(image))
    if _codec(image) == "ppm":
        image = _binary_netpbm(image, data)
    image.load()
    # Some formats are rotated while they load, so the orientation is known only now.
    orientation = _orientation(image)
    return _to_rgb(image), orientation


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _decoder_bytes(image: Image.Image) -> int:
    """Bytes that the decoder needs for each pixel, besides the decoded image."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # A progressive one is kept whole until its last scan, in 16 bits.
        sizes = jpeg_sampling(image)
        return -(-2 * sum(sizes) // max(sizes))
    return 8 if _codec(image) == "ppm_plain" else _DECODER_BYTES.get(image.format or "", 0)


def _codec(image: Image.Image) -> str:
    """Name of Pillow's decoder for an image that is not decoded yet."""
    tile = pillow_tile(image)
    return tile[0] if tile else ""


def _binary_netpbm(image: Image.Image, data: bytes) -> Image.Image:
    """Decode NetPBM of, for example, 12 bits in 8 bits per channel; Pillow takes seconds per megapixel for that."""
    tile = pillow_tile(image)
    assert tile is not None
    _, offset, (_, white) = tile
    shape = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
    count, dtype = int(np.prod(shape)), np.dtype(">u2" if white > 255 else "u1")
    if len(data) - offset < count * dtype.itemsize:
        raise ImageFileError("truncated")
    values = np.frombuffer(data, dtype, count, offset)
    if values.max() > white:
        raise ImageFileError(f"damaged: it has values above its maximum, {white}")
    scaled = ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)
    pixels = np.empty(count, np.uint8)
    for first in range(0, count, _STRIP_PIXELS):
        pixels[first : first + _STRIP_PIXELS] = scaled[values[first : first + _STRIP_PIXELS]]
    return Image.fromarray(pixels.reshape(shape))


def _image_bytes(image: Image.Image) -> int:
    """Bytes of the decoded image for each pixel, including its copy in RGB."""
    own = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    return own + (0 if image.mode in _RESIZED_AS_IS else 4)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata is no reason to reject the image
        return None


_RESIZED_AS_IS = ("L", "RGB")
"""Modes of images that can be resized before conversion to RGB: the result is the same."""


def _to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """The image in RGB or gray, on a background of this color if it is transparent."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ImageFileError("has 32-bit pixels, whose black and white are not defined; save it with 8 or 16 bits")
    if image.mode in _RESIZED_AS_IS and not image.has_transparency_data:
        return image
    # In strips: intermediate images of full size would multiply the memory.
    whole = Image.new("RGB", image.size)
    height = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        whole.paste(_strip_to_rgb(strip, image, background), (0, top))
    return whole


def _strip_to_rgb(strip: Image.Image, image: Image.Image, background: str) -> Image.Image:
    """A part of `image` in RGB."""
    if strip.mode.startswith("I"):
        # PIL would clip at 255 instead of scaling. It also decodes 12-bit gray TIFFs to this mode, unscaled.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
        values = np.asarray(strip).astype(np.uint32)
        gray = ((values * 255 + white // 2) // white).astype(np.uint8)
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white, which PIL ignores
            gray = 255 - gray
        if isinstance(color := image.info.get("transparency"), int):
            gray[values == color] = 255
        return Image.fromarray(gray).convert("RGB")
    if strip.has_transparency_data:
        colored = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, background), colored).convert("RGB")
    return strip.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):  # raised by PIL before the size is known
        return f"too large: more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "needs too much memory to decode"
    if isinstance(error, (EOFError, struct.error)) or "truncated" in str(error).lower():
        return "truncated"
    return "not an image, damaged, or in an unsupported format"
