"""URLs as arrays of bytes, with marks between their parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbbd_cli.data.urls.cleaning import split_url

BEFORE_HOST, AFTER_HOST, END = 1, 2, 3
"""Marks: control characters, which do not occur in the text itself."""
MAX_BYTES = 512
"""Bytes of a URL that are used, marks included; those of longer ones are cut off at the end."""

_CONTROL = bytes.maketrans(bytes(range(32)), b" " * 32)


def encode_url(url: str) -> bytes:
    """Return `scheme, BEFORE_HOST, host, AFTER_HOST, rest, END` of a URL in UTF-8, at most `MAX_BYTES` long.

    Control characters become spaces, and text that is not valid Unicode question marks.
    """
    scheme, host, rest = (part.encode("utf-8", "replace").translate(_CONTROL) for part in split_url(url))
    return (b"%b\1%b\2%b" % (scheme, host, rest))[: MAX_BYTES - 1] + b"\3"


def encode_urls(urls: Sequence[str]) -> np.ndarray:
    """Return the encoded URLs as rows `(N, L)`, uint8, padded with zeros."""
    rows = [encode_url(url) for url in urls]
    width = max(map(len, rows), default=1)
    padded = bytearray().join(row.ljust(width, b"\0") for row in rows)  # unlike bytes, writable as PyTorch wants it
    return np.frombuffer(padded, np.uint8).reshape(len(rows), width)
