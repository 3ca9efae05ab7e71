"""Read the QR codes of a picture in this process; only workers may do this to untrusted files (see `codes`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from dbbd_cli.core.files import read_file
from dbbd_cli.data.images.decode import decode_gray
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.images.refs import MAX_FILE_BYTES

MAX_SIDE = 3000
"""Maximum width and height at which pictures are read, pixels; larger ones are reduced."""
NOTHING_FOUND = "no QR code was found in it"
PIXELS_PER_MODULE = 4
"""Size at which URLs are rendered to be read."""
_UPSCALED_SIDE = 800
"""Pictures whose longer side is at most this are also read at two and three times the size."""
_REDUCED_SIDE = 400
"""Pictures whose longer side is at least this are also read at half the size."""
_MARGIN = 0.1
"""Width of the margin that is added for codes that fill the picture, of its longer side."""
_DECLARED = "5D 51 32"
"""How text in hexadecimal digits begins ("]Q2") if the code declares the encoding of its bytes."""


class Picture(NamedTuple):
    """A picture whose codes are to be read: a file, or a URL to be rendered as a QR code."""

    path: str | None = None
    url: str | None = None
    corruption: tuple[str, float, int, int] | None = None
    """Fields of the `Corrupted` to apply before reading; None for none."""


def read_picture(picture: Picture) -> tuple[list[str], str]:
    """Read the codes of a picture.

    Returns:
        The different texts, and why they cannot be relied on, or are none; empty if there is no problem.
    """
    try:
        gray = _load(picture)
    except OSError as error:
        return [], f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # includes ImageFileError
        return [], str(error)
    texts, doubt = find_codes(gray)
    return texts, doubt if texts else NOTHING_FOUND


def _load(picture: Picture) -> np.ndarray:
    if picture.url is not None:
        gray = render_modules(picture.url, PIXELS_PER_MODULE)
    else:
        assert picture.path is not None
        gray = decode_gray(read_file(Path(picture.path), MAX_FILE_BYTES), MAX_SIDE)
    if picture.corruption is None:
        return gray
    from dbbd_cli.data.images.corruptions import Corrupted, corrupt  # imports SciPy

    return corrupt(gray, Corrupted(*picture.corruption))


def find_codes(gray: np.ndarray) -> tuple[list[str], str]:
    """Find the texts of all QR and Micro QR codes in a picture, at any angle, inverted or mirrored.

    The picture is read as it is; if nothing is found, then after changes that help with blur, noise, small codes and
    codes without a margin.

    Args:
        gray: `(H, W)`, uint8.

    Returns:
        The different texts in the order they were found, and what is doubtful about them; empty if nothing is.
    """
    for image, binarizer in _attempts(gray):
        if found := _read(image, binarizer):
            texts = [_text(code) for code in found]
            return list(dict.fromkeys(texts)), _doubt(image, binarizer, found)
    return [], ""


def _attempts(gray: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """Versions of the picture to read, and how to make them black and white, the most successful first."""
    yield gray, "LocalAverage"
    yield gray, "GlobalHistogram"
    image = Image.fromarray(gray)
    longest = max(image.size)
    for changed in (image.filter(ImageFilter.MedianFilter(3)), image.filter(ImageFilter.GaussianBlur(1.5))):
        yield np.asarray(changed), "LocalAverage"
    if longest <= _UPSCALED_SIDE:
        clear = ImageOps.autocontrast(image)
        doubled, tripled = (
            clear.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC) for factor in (2, 3)
        )
        yield np.asarray(doubled), "LocalAverage"
        yield np.asarray(tripled.filter(ImageFilter.UnsharpMask(6, 400, 0))), "LocalAverage"
    if longest >= _REDUCED_SIDE:
        yield np.asarray(image.reduce(2)), "LocalAverage"
    for color in (255, 0):
        yield np.pad(gray, round(_MARGIN * longest), constant_values=color), "LocalAverage"


def _read(image: np.ndarray, binarizer: str, text_mode: str = "Plain") -> list[Any]:
    import zxingcpp  # only reading pictures needs it

    return zxingcpp.read_barcodes(
        np.ascontiguousarray(image),
        formats=_formats(),
        binarizer=getattr(zxingcpp.Binarizer, binarizer),
        text_mode=getattr(zxingcpp.TextMode, text_mode),
    )


@cache
def _formats() -> Any:
    import zxingcpp

    return zxingcpp.BarcodeFormats((zxingcpp.BarcodeFormat.QRCode, zxingcpp.BarcodeFormat.MicroQRCode))


def _text(code: Any) -> str:
    """The text of a code: its bytes as UTF-8, else as the code declares, else as the reader guesses."""
    try:
        return bytes(code.bytes).decode("utf-8")
    except UnicodeDecodeError:
        return str(code.text)


def _doubt(image: np.ndarray, binarizer: str, found: list[Any]) -> str:
    if all(_is_utf8(code) for code in found):
        return ""
    declared = [code.text.startswith(_DECLARED) for code in _read(image, binarizer, "HexECI")]
    if all(known or _is_utf8(code) for known, code in zip(declared, found, strict=True)):
        return ""
    return "the bytes of its code are not UTF-8, and it does not declare another encoding"


def _is_utf8(code: Any) -> bool:
    try:
        bytes(code.bytes).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
