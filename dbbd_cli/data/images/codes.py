"""Read the texts of the QR codes in a picture."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zxingcpp
from PIL import Image, ImageOps

from dbbd_cli.core.files import read_file
from dbbd_cli.data.images.decode import MAX_PIXELS
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX, can_read
from dbbd_cli.data.images.refs import MAX_FILE_BYTES
from dbbd_cli.data.problems import why


class CodesRead(NamedTuple):
    """The codes of a picture.

    Attributes:
        texts: the text of each code, none twice.
        problem: why the picture could not be read; empty if it could.
    """

    texts: tuple[str, ...]
    problem: str = ""


def read_codes(picture: Path | bytes) -> CodesRead:
    """Read the QR codes in a picture, given as a file or its content."""
    try:
        data = picture if isinstance(picture, bytes) else read_file(picture, MAX_FILE_BYTES)
    except OSError as error:
        return CodesRead((), f"cannot be read: {why(error)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = [name for name in {*FORMAT_OF_SUFFIX.values()} if can_read(name)]
            with Image.open(io.BytesIO(data), formats=formats) as image:
                if image.width * image.height > MAX_PIXELS:
                    return CodesRead((), f"too large: {image.width} x {image.height} pixels")
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    colored = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", colored.size, "white"), colored)
                pixels = np.array(upright.convert("L"))
    except Exception:  # PIL's parsers raise anything on damaged bytes
        return CodesRead((), "not an image, damaged, or in an unsupported format")
    # The formats are named as text because the names of the constants differ between versions.
    found = zxingcpp.read_barcodes(pixels, formats=zxingcpp.barcode_formats_from_str("QRCode,MicroQRCode"))
    return CodesRead(tuple(dict.fromkeys(code.text for code in found if code.text)))
