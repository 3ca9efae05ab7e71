"""Image formats: which can be read here, and which suffixes belong to unsupported ones."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import metadata

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
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".ppm": "PPM",
    ".pnm": "PPM",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".heics": "HEIF",
    ".heifs": "HEIF",
    ".avif": "AVIF",
    ".avifs": "AVIF",
}
"""Formats, as Pillow names them, by file suffix. Of several frames or pages only the first is read."""

_CAMERAS = """
    3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f
"""
_SUCCESSORS_OF_JPEG = "jxl jp2 j2k j2c jpc jpf jpx jpm jxr wdp hdp bpg flif"
_PROGRAMS = """
    psd psb xcf kra ora ai eps svg svgz wmf emf exr hdr pfm pam qoi tga icb vda vst dds pcx ico cur icns sgi rgb rgba
    ras xbm xpm fits fit fts dcm dicom djvu
"""
_UNREAD_SUFFIXES = frozenset((_CAMERAS + _SUCCESSORS_OF_JPEG + _PROGRAMS).split())
"""Suffixes of unsupported image formats, without the dot."""

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
"""First bytes of PNG, JPEG and GIF."""

_OPTIONAL = {"HEIF": 'pip install "dbbd-cli[heif]"', "AVIF": 'pip install "pillow>=11.3"'}
"""How to install support for formats that may not be readable."""


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case, with the dot; empty if there is none."""
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() if stem and dot else ""


def is_image_name(name: str) -> bool:
    """Return whether a file of this name can be read as an image."""
    return can_read(FORMAT_OF_SUFFIX.get(suffix_of(name), ""))


def is_unread_name(name: str) -> bool:
    """Return whether a file of this name is an image that cannot be read."""
    suffix = suffix_of(name)
    return suffix[1:] in _UNREAD_SUFFIXES or (suffix in FORMAT_OF_SUFFIX and not is_image_name(name))


def begins_like_image(path: str) -> bool:
    """Return whether a file begins like one of the most common formats, whatever its name."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path object per file is slow
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_STARTS) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


@cache
def can_read(name: str) -> bool:
    """Return whether a format of `FORMAT_OF_SUFFIX` can be read in this environment."""
    if name == "HEIF":
        try:
            import pillow_heif
        except ImportError:
            return False
        # Without these options, thumbnails could be decoded in place of large images.
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        return True
    if name == "AVIF":
        from PIL import features

        if "avif" not in features.modules or features.check("avif") is not True:
            return False
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as for HEIC: images are decoded in several processes already
        return True
    return name in FORMAT_OF_SUFFIX.values()


def reader_versions() -> str:
    """Return the versions of the libraries that determine which images can be read."""
    try:
        return f"{metadata.version('pillow')} {metadata.version('pillow-heif')}"
    except metadata.PackageNotFoundError:
        return metadata.version("pillow")


def ways_to_read(suffixes: Iterable[str]) -> dict[str, str]:
    """Return how to install support for those of these suffixes that need it."""
    formats = {suffix: FORMAT_OF_SUFFIX.get(suffix, "") for suffix in sorted(suffixes)}
    return {suffix: _OPTIONAL[name] for suffix, name in formats.items() if name in _OPTIONAL and not can_read(name)}
