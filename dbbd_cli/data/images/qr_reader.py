"""Read the QR codes of a picture in this process; only workers may do this to untrusted files (see `codes`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from dbbd_cli.data.images.decode import ImageFileError, decode_gray, has_more_frames
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.images.refs import Part, read_image_file

MAX_SIDE = 3000
"""Maximum width and height at which pictures are read, pixels; larger ones are reduced."""
NOTHING_FOUND = "no QR code was found in it"
PIXELS_PER_MODULE = 4
"""Size at which URLs are rendered to be read."""
_UPSCALED_SIDE = 800
"""Pictures whose longer side is at most this are also read at two and three times the size."""
_REDUCED_SIDE = 200
"""Pictures whose longer side is at least this are also read at half the size."""
_DEBLURRED = ((0.005, 0.1), (0.0075, 0.01))
"""Blurs to undo: standard deviation, of the shorter side, and power of the noise, of that of the picture."""
_FILTER_MARGIN = 16
"""Pixels that are added on each side of a picture before it is filtered."""
_MARGIN = 0.1
"""Width of the margin that is added for codes that fill the picture, of its longer side."""
_DECLARED = "5D 51 32"
"""How text in hexadecimal digits begins ("]Q2") if the code declares the encoding of its bytes."""
_UNKNOWN_ENCODING = "its text may be wrong: its bytes are not UTF-8, and no other encoding is known"
"""Also of Kanji mode, which implies Shift JIS: ZXing does not tell it from bytes."""


class Picture(NamedTuple):
    """A picture whose codes are to be read: a file, or a URL to be rendered as a QR code."""

    path: str | None = None
    url: str | None = None
    corruption: tuple[str, float, int, int] | None = None
    """Fields of the `Corrupted` to apply before reading; None for none."""
    version_only: bool = False
    """Whether to read only the version of a clear code, which is much faster, rather than texts."""
    part: tuple[str, int, int] | None = None
    """Where the picture lies in a tar shard; None for a file of its own."""


def read_picture(picture: Picture) -> tuple[list[str], str]:
    """Read the codes of a picture.

    Returns:
        The different texts, or the version of one code; and why they cannot be relied on, or are none, which is empty
        if there is no problem.
    """
    try:
        data = None if picture.path is None else read_image_file(picture.path, picture.part and Part(*picture.part))
        gray = _load(picture, data)
    except OSError as error:
        return [], f"cannot be read: {error.strerror or error}"
    except ValueError as error:  # includes ImageFileError
        return [], str(error)
    texts, doubt = (_version(gray), "") if picture.version_only else find_codes(gray)
    if not texts:
        doubt = NOTHING_FOUND
        with suppress(ImageFileError):
            if data is not None and has_more_frames(data):
                doubt += ", whose first frame or page alone was read"
    return texts, doubt


def _version(gray: np.ndarray) -> list[str]:
    """The version, 1 to 40, of the first QR code in a picture as it is; none if there is no code."""
    return [str(code.extra["Version"]) for code in _Attempt(gray).read()[:1]]


def _load(picture: Picture, data: bytes | None) -> np.ndarray:
    """The pixels of a picture `(H, W)`, uint8, given the content of its file if it is one."""
    if data is not None:
        gray = decode_gray(data, MAX_SIDE)
    else:
        assert picture.url is not None
        gray = render_modules(picture.url, PIXELS_PER_MODULE)
    if picture.corruption is None:
        return gray
    from dbbd_cli.data.images.corruptions import Corrupted, corrupt  # imports SciPy

    return corrupt(gray, Corrupted(*picture.corruption))


def find_codes(gray: np.ndarray) -> tuple[list[str], str]:
    """Find the texts of all QR, Micro QR and rMQR codes in a picture, at any angle, inverted or mirrored.

    The picture is read as it is; if nothing is found, then after changes that help with blur, noise, small codes and
    codes without a margin.

    Args:
        gray: `(H, W)`, uint8.

    Returns:
        The different texts in the order they were found, and what is doubtful about them; empty if nothing is.
    """
    for attempt in _attempts(gray):
        if found := attempt.read():
            texts, doubt = _texts(attempt, found)
            return list(dict.fromkeys(texts)), doubt
    return [], ""


class _Attempt(NamedTuple):
    """A version of a picture, and how to read it."""

    image: np.ndarray
    binarizer: str = "LocalAverage"
    """How the image is made black and white."""
    micro: bool = False
    """Whether to read Micro QR and rMQR codes too: their few check bits do not tell them from sharpened noise."""

    def read(self, text_mode: str = "Plain") -> list[Any]:
        """Return the codes, as ZXing's objects."""
        import zxingcpp  # only reading pictures needs it

        kinds = zxingcpp.BarcodeFormat
        found: list[Any] = zxingcpp.read_barcodes(
            np.ascontiguousarray(self.image),
            formats=zxingcpp.BarcodeFormats(
                [kinds.QRCodeModel2, *([kinds.MicroQRCode, kinds.RMQRCode] if self.micro else [])]
            ),
            binarizer=getattr(zxingcpp.Binarizer, self.binarizer),
            text_mode=getattr(zxingcpp.TextMode, text_mode),
        )
        # M1, for up to five digits, only detects errors, and blurred QR codes have been read as one.
        return [code for code in found if code.extra.get("Version") != "M1"]


def _attempts(gray: np.ndarray) -> Iterator[_Attempt]:
    """Versions of a picture, the most successful and the fastest first."""
    yield _Attempt(gray, micro=True)
    yield _Attempt(gray, "GlobalHistogram", micro=True)
    image = Image.fromarray(gray)
    longest = max(image.size)
    if longest >= _REDUCED_SIDE:
        yield _Attempt(np.asarray(image.reduce(2)))
    clear = ImageOps.autocontrast(image)
    yield _Attempt(_sharpened(clear.filter(ImageFilter.GaussianBlur(1.5)), 2))
    for width, noise in _DEBLURRED:
        yield _Attempt(_deblurred(image, width, noise))
    if longest <= _UPSCALED_SIDE:
        for smooth in (clear.filter(ImageFilter.GaussianBlur(0.7)), clear):
            yield _Attempt(_sharpened(_enlarged(smooth, 3), 6))
    for color in (255, 0):
        yield _Attempt(np.pad(gray, round(_MARGIN * longest), constant_values=color), micro=True)


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC)


def _sharpened(image: Image.Image, radius: int) -> np.ndarray:
    return np.asarray(image.filter(ImageFilter.UnsharpMask(radius, 400, 0)))


def _deblurred(image: Image.Image, width: float, noise: float) -> np.ndarray:
    """Undo a blur where the picture exceeds the noise (Wiener's filter), and enlarge the result.

    Args:
        image: a gray picture; a large one is reduced first.
        width: standard deviation of the Gaussian blur, of the shorter side.
        noise: power of the noise, of that of the picture.
    """
    small = image.copy()
    small.thumbnail((_UPSCALED_SIDE, _UPSCALED_SIDE), Image.Resampling.BOX)
    # The filter acts on a picture that continues at the opposite side, so both sides get the same margin.
    pixels = np.pad(np.asarray(small, dtype=np.float32), _FILTER_MARGIN, mode="edge")
    rows, columns = (frequencies(size).astype(np.float32) for frequencies, size in
                     zip((np.fft.fftfreq, np.fft.rfftfreq), pixels.shape, strict=True))  # fmt: skip
    sigma = width * min(small.size)
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns**2))
    spectrum = np.fft.rfft2(pixels) * (blur / (blur**2 + noise))
    inner = slice(_FILTER_MARGIN, -_FILTER_MARGIN)
    clear = np.fft.irfft2(spectrum, s=pixels.shape)[inner, inner]
    dark, light = np.quantile(clear, (0.02, 0.98))
    scaled = (clear - dark) * (255 / max(light - dark, 1))
    return np.asarray(_enlarged(Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)), 2))


def _texts(attempt: _Attempt, found: list[Any]) -> tuple[list[str], str]:
    """The text of each code, as it declares, else in UTF-8, else as ZXing guesses; and what is doubtful about them."""
    as_utf8, guessed = [_as_utf8(code) for code in found], [str(code.text) for code in found]
    if as_utf8 == guessed:
        return guessed, ""
    # What a code declares is only visible in another form of its text.
    declares = [code.text.startswith(_DECLARED) for code in attempt.read("HexECI")]
    texts = [
        guess if declared or text is None else text
        for text, guess, declared in zip(as_utf8, guessed, declares, strict=True)
    ]
    doubtful = any(text is None and not declared for text, declared in zip(as_utf8, declares, strict=True))
    return texts, _UNKNOWN_ENCODING if doubtful else ""


def _as_utf8(code: Any) -> str | None:
    try:
        return bytes(code.bytes).decode("utf-8")
    except UnicodeDecodeError:
        return None
