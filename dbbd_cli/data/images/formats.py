"""Image formats: which are read, how names and contents are recognized, and which others are known but not read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".pjpeg": "JPEG",
    ".pjp": "JPEG",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".pbm": "PNM",
    ".pgm": "PNM",
    ".ppm": "PNM",
    ".pnm": "PNM",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".hif": "HEIC",
    ".heics": "HEIC",
    ".heifs": "HEIC",
    ".avif": "AVIF",
    ".avifs": "AVIF",
}
"""Formats by file suffix, in lower case. Only the first frame or page is read, or the main image of a HEIC."""

OPTIONAL = {"HEIC", "AVIF"}
"""Formats that need optional dependencies."""
_SAFE_LIBHEIF = (1, 23)
"""Earlier versions decode data of any size, regardless of the declared size."""
HEIF_EXTRA = 'pip install "dbbd-cli[heif]"'

HEAD_BYTES = 64
"""Bytes from the start of a file that `image_format` and `unread_format` need."""

_CAMERAS = """
    3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f
"""
_SUCCESSORS_OF_JPEG = "jxl jp2 j2k j2c jpc jpf jpx jpm jxr wdp hdp bpg flif"
_PROGRAMS = """
    psd psb xcf kra ora ai eps svg svgz wmf emf exr hdr pfm pam qoi tga icb vda vst dds pcx ico cur icns sgi rgb rgba
    ras xbm xpm fits fit fts dcm dicom djvu
"""
UNREAD_SUFFIXES = frozenset((_CAMERAS + _SUCCESSORS_OF_JPEG + _PROGRAMS).split())
"""Suffixes of unsupported image formats, without the dot."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_PNM = re.compile(rb"P[1-6][\s#]")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_UNREAD_STARTS = {
    b"8BPS": "Photoshop document",
    b"\xff\x0a": "JPEG XL image",
    b"\0\0\0\x0cJXL ": "JPEG XL image",
    b"\0\0\0\x0cjP  ": "JPEG 2000 image",
    b"\xff\x4f\xff\x51": "JPEG 2000 image",
    b"II\xbc\x01": "JPEG XR image",
    b"v/1\x01": "OpenEXR image",
    b"#?RADIANCE": "Radiance HDR image",
    b"#?RGBE": "Radiance HDR image",
    b"P7\n": "PAM image",
    b"gimp xcf": "GIMP image",
    b"qoif": "QOI image",
    b"DDS ": "DDS image",
    b"<svg": "SVG image",
    b"%PDF-": "PDF document",
    b"%!PS": "PostScript document",
    b"FUJIFILMCCD-RAW": "raw file of a camera",
    b"IIU\0": "raw file of a camera",
    b"IIRO": "raw file of a camera",
    b"IIRS": "raw file of a camera",
    b"MMOR": "raw file of a camera",
    b"\0MRM": "raw file of a camera",
    b"FOVb": "raw file of a camera",
}


class ImageFileError(ValueError):
    """An image cannot be used; the message is the reason, in plain words."""


class MissingReaderError(ImageFileError):
    """The image is in a format that this environment cannot read."""


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with the dot; empty if there is none."""
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() if stem and dot else ""


def image_format(head: bytes) -> str | None:
    """The format, one of `FORMAT_OF_SUFFIX`, of a file that begins with `head` (`HEAD_BYTES` bytes), or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(_TIFF_STARTS):
        return "TIFF"
    # "BM" alone does not distinguish a bitmap from text.
    if head.startswith(b"BM") and int.from_bytes(head[14:16], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if _PNM.match(head):
        return "PNM"
    if head[4:8] == b"ftyp":
        brands = {head[start : start + 4] for start in (8, *range(16, min(len(head), _box_size(head)) - 3, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        # A HEIF container may hold images of other kinds, which its reader rejects.
        if brands & _HEIC_BRANDS or head[8:12] in (b"mif1", b"msf1"):
            return "HEIC"
    return None


def unread_format(head: bytes) -> str | None:
    """The unsupported format, such as "PAM image", of a file that begins with `head`; None if it is unknown."""
    if head[4:12] == b"ftypcrx ":
        return "raw file of a camera"
    return next((name for start, name in _UNREAD_STARTS.items() if head.startswith(start)), None)


def with_article(name: str) -> str:
    """The name of a format after "a" or "an"."""
    return f"{'an' if name.startswith(('AVIF', 'OpenEXR', 'SVG')) else 'a'} {name}"


@cache
def can_read(name: str) -> bool:
    """Whether a format of `FORMAT_OF_SUFFIX` can be read in this environment."""
    if name == "HEIC":
        try:
            import pillow_heif

            # Without these options, thumbnails could be decoded in place of large images.
            pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        except ImportError:
            return False
        return _version(pillow_heif.libheif_version()) >= _SAFE_LIBHEIF
    if name == "AVIF":
        from PIL import features

        if "avif" not in features.modules or features.check("avif") is not True:
            return False
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as for HEIC: images are decoded in several processes already
        return True
    return name in FORMAT_OF_SUFFIX.values()


def reader_versions(suffixes: set[str]) -> str:
    """Versions of the libraries that determine which images with these suffixes can be read."""
    import PIL

    if can_read("HEIC") and any(FORMAT_OF_SUFFIX.get(suffix) == "HEIC" for suffix in suffixes):
        import pillow_heif

        return f"{PIL.__version__} {pillow_heif.__version__}"
    return PIL.__version__


def how_to_read(name: str) -> str:
    """How to install support for a format that `can_read` rejects."""
    return HEIF_EXTRA if name == "HEIC" else 'pip install "pillow>=11.3"'


def ways_to_read(suffixes: Iterable[str]) -> dict[str, str]:
    """How to install support for those of these suffixes that need it."""
    formats = {suffix: FORMAT_OF_SUFFIX.get(suffix, "") for suffix in sorted(suffixes)}
    return {suffix: how_to_read(name) for suffix, name in formats.items() if name in OPTIONAL and not can_read(name)}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _box_size(head: bytes) -> int:
    return int.from_bytes(head[:4], "big")
