"""Make a manifest from URLs, given as such or as pictures of QR codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.candidates import Candidates, Sampling, Source, divide, draw
from dbbd_cli.data.images.manifest import report_skipped
from dbbd_cli.data.images.sources import files_of
from dbbd_cli.data.images.url_pictures import read_urls
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import UrlCleaning, clean_url, url_sha256


def make_manifest(
    source: Source,
    *,
    cleaning: UrlCleaning,
    sampling: Sampling,
    progress: Progress,
) -> Manifest:
    """Draw the samples, read the codes of pictures, and divide the usable samples into splits.

    URLs that are the same once they are cleaned are the same sample, and go into the same split.

    Args:
        source: the classes and possible samples.
        cleaning: how URLs are changed before they are classified.
        sampling: how samples are drawn and divided.
        progress: receives messages.

    Raises:
        DataError: rows or pictures are unusable and must not be skipped, or a class has too few.
    """
    unit = "picture" if source.roots else "URL"
    candidates = draw(source, sampling, unit, progress)
    problems, texts = list(source.problems), [""] * len(candidates)
    if source.roots:
        report_skipped(source, progress)
        candidates, texts, unusable = _read(candidates, source.roots, progress)
        problems += unusable
    hashes = [url_sha256(clean_url(text or key, cleaning)) for text, key in zip(texts, candidates.keys, strict=True)]
    return divide(source, candidates, hashes, texts, problems, sampling, unit, progress)


def _read(candidates: Candidates, roots: Sequence[Path], progress: Progress) -> tuple[Candidates, list[str], list[str]]:
    """Return the pictures that show the code of one URL, their URLs, and the problems of the others."""
    paths = files_of(roots, candidates.keys, candidates.labels)
    usable, urls, problems = [], [], []
    for place, (path, (url, problem)) in enumerate(zip(paths, read_urls(paths, progress), strict=True)):
        if problem:
            problems.append(f"{path}: {problem}")
        else:
            usable.append(place)
            urls.append(url)
    return candidates.at(usable), urls, problems
