"""Read the QR codes of a picture in this process; only workers may do this to untrusted files (see `codes`)."""

from __future__ import annotations

from collections.abc import Iterator
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
    version_only: bool = False
    """Whether to read only the version of a clear code, which is much faster, rather than texts."""


def read_picture(picture: Picture) -> tuple[list[str], str]:
    """Read the codes of a picture.

    Returns:
        The different texts, or the version of one code; and why they cannot be relied on, or are none, which is empty
        if there is no problem.
    """
    try:
        gray = _load(picture)
    except OSError as error:
        return [], f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # includes ImageFileError
        return [], str(error)
    texts, doubt = (_version(gray), "") if picture.version_only else find_codes(gray)
    return texts, doubt if texts else NOTHING_FOUND


def _version(gray: np.ndarray) -> list[str]:
    """The version, 1 to 40, of the first QR code in a picture as it is; none if there is no code."""
    return [str(code.extra["Version"]) for code in _Attempt(gray).read()[:1]]


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
    for attempt in _attempts(gray):
        if found := attempt.read():
            return list(dict.fromkeys(_text(code) for code in found)), _doubt(attempt, found)
    return [], ""


class _Attempt(NamedTuple):
    """A version of a picture, and how to read it."""

    image: np.ndarray
    binarizer: str = "LocalAverage"
    """How the image is made black and white."""
    micro: bool = False
    """Whether to read Micro QR codes too: their few check bits do not tell them from noise that was sharpened."""

    def read(self, text_mode: str = "Plain") -> list[Any]:
        """Return the codes, as ZXing's objects."""
        import zxingcpp  # only reading pictures needs it

        kinds = zxingcpp.BarcodeFormat
        return zxingcpp.read_barcodes(
            np.ascontiguousarray(self.image),
            formats=zxingcpp.BarcodeFormats([kinds.QRCodeModel2, *([kinds.MicroQRCode] if self.micro else [])]),
            binarizer=getattr(zxingcpp.Binarizer, self.binarizer),
            text_mode=getattr(zxingcpp.TextMode, text_mode),
        )


def _attempts(gray: np.ndarray) -> Iterator[_Attempt]:
    """Versions of a picture, the most successful first."""
    yield _Attempt(gray, micro=True)
    yield _Attempt(gray, "GlobalHistogram", micro=True)
    image = Image.fromarray(gray)
    longest = max(image.size)
    yield _Attempt(np.asarray(image.filter(ImageFilter.MedianFilter(3))))
    yield _Attempt(np.asarray(image.filter(ImageFilter.GaussianBlur(1.5))))
    if longest <= _UPSCALED_SIDE:
        yield _Attempt(_enlarged(image, 2))
        for smooth in (image.filter(ImageFilter.GaussianBlur(0.7)), image):
            yield _Attempt(_enlarged(smooth, 3, sharpen=True))
    if longest >= _REDUCED_SIDE:
        yield _Attempt(np.asarray(image.reduce(2)))
    for color in (255, 0):
        yield _Attempt(np.pad(gray, round(_MARGIN * longest), constant_values=color), micro=True)


def _enlarged(image: Image.Image, factor: int, *, sharpen: bool = False) -> np.ndarray:
    """An image with full contrast, enlarged."""
    clear = ImageOps.autocontrast(image)
    large = clear.resize((factor * clear.width, factor * clear.height), Image.Resampling.BICUBIC)
    return np.asarray(large.filter(ImageFilter.UnsharpMask(2 * factor, 400, 0)) if sharpen else large)


def _text(code: Any) -> str:
    """The text of a code: its bytes as UTF-8, else as the code declares, else as ZXing guesses."""
    return bytes(code.bytes).decode("utf-8") if _is_utf8(code) else str(code.text)


def _doubt(attempt: _Attempt, found: list[Any]) -> str:
    if all(_is_utf8(code) for code in found):
        return ""
    declared = [code.text.startswith(_DECLARED) for code in attempt.read("HexECI")]
    if all(known or _is_utf8(code) for known, code in zip(declared, found, strict=True)):
        return ""
    return "the bytes of its code are not UTF-8, and it does not declare another encoding"


def _is_utf8(code: Any) -> bool:
    try:
        bytes(code.bytes).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
