"""Read the URL, or the version of the code, in each of many pictures of QR codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.images.codes import CodesRead, read_all_codes
from dbbd_cli.data.images.qr_reader import Picture
from dbbd_cli.data.images.refs import ImageRef
from dbbd_cli.data.urls.kinds import other_kind, unwrapped


def read_urls(paths: Sequence[str], progress: Progress) -> list[tuple[str, str]]:
    """Read the codes of pictures in parallel.

    Args:
        paths: the files.
        progress: shows a bar.

    Returns:
        For each picture, its URL and why it has none that can be relied on; one of the two is empty.

    Raises:
        DataError: worker processes cannot be started.
    """
    urls: list[tuple[str, str]] = [("", "")] * len(paths)
    with progress.phase("Reading codes", len(paths), unit="pictures", sample_unit="pictures") as bar:
        for position, found in read_all_codes([Picture(path) for path in paths]):
            urls[position] = url_of(found)
            bar.advance(samples=1)
    return urls


def read_versions(refs: Sequence[ImageRef], progress: Progress) -> list[float]:
    """Read the versions of the codes of pictures in parallel; NaN for a picture without a clear code.

    For errors, see `read_urls`.

    Args:
        refs: the pictures.
        progress: shows a bar.
    """
    versions = [math.nan] * len(refs)
    pictures = [Picture(ref.path, version_only=True, part=ref.part) for ref in refs]
    with progress.phase("Reading QR versions", len(refs), unit="pictures", sample_unit="pictures") as bar:
        for position, found in read_all_codes(pictures):
            if found.texts:
                versions[position] = float(found.texts[0])
            bar.advance(samples=1)
    return versions


def url_of(found: CodesRead) -> tuple[str, str]:
    """Return the URL in the codes of a picture, and why there is none that can be relied on; one of them is empty."""
    if found.problem:
        return "", found.problem
    if len(found.texts) > 1:
        return "", f"has {len(found.texts)} different codes; each picture must show only one"
    url = unwrapped(found.texts[0])
    if kind := other_kind(url):
        return "", f"its code does not hold a URL, but {kind}"
    return url, ""
