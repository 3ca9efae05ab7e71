"""Render text as an image of a QR code."""

from __future__ import annotations

import numpy as np
import segno
from PIL import Image

from dbbd_cli.data.images.qr_mask import masked_modules

MAX_BYTES = 2331
"""Maximum number of UTF-8 bytes in a QR code with error correction M, in the mode that URLs need."""

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
