"""Render text as an image of a QR code."""

from __future__ import annotations

import numpy as np
import segno
from PIL import Image

from dbbd_cli.data.images.qr_mask import masked_modules

MAX_BYTES = 2331
"""Maximum number of UTF-8 bytes in a QR code with error correction M, in the mode that URLs need."""

_BYTES_OF_VERSION = (
    *(14, 26, 42, 62, 84, 106, 122, 152, 180),  # versions 1 to 9
    *(213, 251, 287, 331, 362, 412, 450, 504, 560, 624, 666, 711, 779, 857, 911, 997, 1059),  # 10 to 26
    *(1125, 1190, 1264, 1370, 1452, 1538, 1628, 1722, 1809, 1911, 1989, 2099, 2213, MAX_BYTES),  # 27 to 40
)
"""Bytes that fit into a code of each version with error correction M (ISO/IEC 18004, table 7)."""
_ALPHANUMERIC = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")

_PIXELS_PER_MODULE = 10
_BORDER_MODULES = 4


def render_qr(url: str, size: int) -> np.ndarray:
    """Render a text as a QR code (error correction M, border of 4 modules), resized to the given size.

    Args:
        url: the text; characters outside ASCII are stored as UTF-8.
        size: height and width, pixels.

    Returns:
        Array of shape (size, size), uint8: 0 is black, 255 is white.

    Raises:
        ValueError: the text is empty, not valid Unicode, or does not fit into a QR code.
    """
    pixels = render_modules(url, _PIXELS_PER_MODULE)
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def render_modules(url: str, pixels_per_module: int) -> np.ndarray:
    """Render a text as a QR code like `render_qr`, with modules of a given size.

    Returns:
        Array of shape (S, S), uint8; S depends on the length of the text.

    Raises:
        ValueError: the text is empty, not valid Unicode, or does not fit into a QR code.
    """
    if not url:
        raise ValueError("the text of a QR code is empty")
    # By default segno stores some non-ASCII texts as Shift-JIS, which many scanners then misread.
    encoding, mode = (None, None) if url.isascii() else ("utf-8", "byte")
    try:
        code = segno.make(url, error="m", boost_error=False, micro=False, encoding=encoding, mode=mode, mask=0)
    except UnicodeEncodeError:
        raise ValueError("the text of a QR code is not valid Unicode") from None
    except segno.DataOverflowError:
        length = len(url.encode("utf-8"))
        raise ValueError(f"the text is too long for a QR code: {length:,} bytes (limit {MAX_BYTES:,})") from None
    modules = np.pad(np.where(masked_modules(code), 0, 255).astype(np.uint8), _BORDER_MODULES, constant_values=255)
    return modules.repeat(pixels_per_module, axis=0).repeat(pixels_per_module, axis=1)


def qr_version(text: str) -> int:
    """Return the version, 1 to 40, of the code that `render_qr` makes of a text, without making it.

    A code of version v has 17 + 4v modules on a side; 41 stands for text that does not fit.
    """
    num_bytes, num_chars = len(text.encode("utf-8", "replace")), len(text)
    for version, capacity in enumerate(_BYTES_OF_VERSION, start=1):
        group = 0 if version <= 9 else 1 if version <= 26 else 2
        bits = 8 * capacity + (8 if group == 0 else 16)  # of the length and the content
        if text.isascii() and text.isdigit():
            needed = (10, 12, 14)[group] + 10 * (num_chars // 3) + (0, 4, 7)[num_chars % 3]
        elif _ALPHANUMERIC.issuperset(text):
            needed = (9, 11, 13)[group] + 11 * (num_chars // 2) + 6 * (num_chars % 2)
        else:
            needed = (8 if group == 0 else 16) + 8 * num_bytes
        if needed <= bits:
            return version
    return 41
