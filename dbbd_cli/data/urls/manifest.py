"""Make a manifest from URLs, given as such or as pictures of QR codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.candidates import Candidate, OnError, Source, draw, handle_problems, report_duplicates
from dbbd_cli.data.images.manifest import report_skipped
from dbbd_cli.data.images.sources import file_of
from dbbd_cli.data.images.url_pictures import read_urls
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.data.splitting import assign_splits
from dbbd_cli.data.urls.cleaning import UrlCleaning, clean_url, host_of, url_sha256


def make_manifest(
    source: Source,
    *,
    cleaning: UrlCleaning,
    sample_per_class: int | None,
    report_limit: bool,
    shares: Sequence[float],
    group_by_host: bool,
    on_error: OnError,
    seed: int,
    progress: Progress,
) -> Manifest:
    """Draw the samples, read the codes of pictures, and divide the usable samples into splits.

    URLs that are the same once they are cleaned go into the same split, whatever their classes; so do URLs of a host if
    requested.

    Args:
        source: the classes and possible samples.
        cleaning: how URLs are changed before they are classified.
        sample_per_class: maximum number of samples of a class; None for all.
        report_limit: whether to report classes that have fewer.
        shares: shares of the splits train, val and test.
        group_by_host: whether URLs of the same host go into the same split.
        on_error: fail: unusable rows and pictures end the run; skip: they are left out.
        seed: seed of the draw.
        progress: receives messages.

    Raises:
        DataError: rows or pictures are unusable and `on_error` is `fail`, or a class has too few.
    """
    unit = "picture" if source.roots else "URL"
    candidates = draw(source, sample_per_class, report_limit=report_limit, unit=unit, seed=seed, progress=progress)
    problems, texts = list(source.problems), [""] * len(candidates)
    if source.roots:
        report_skipped(source, progress)
        candidates, texts, unusable = _read(candidates, source.roots, progress)
        problems += unusable
    handle_problems(problems, on_error, unit, progress)
    keys, labels = [c.key for c in candidates], [c.label for c in candidates]
    urls = [text or key for text, key in zip(texts, keys, strict=True)]
    hashes = [url_sha256(clean_url(url, cleaning)) for url in urls]
    report_duplicates(source.classes, hashes, candidates, unit, progress)
    groups = [host_of(url) for url in urls] if group_by_host else hashes
    splits = assign_splits(keys, labels, groups, source.classes, shares, seed)
    samples = tuple(map(Sample, keys, labels, hashes, splits, texts))
    return Manifest(source.kind, source.classes, tuple(map(str, source.roots)), samples, tuple(problems))


def _read(
    candidates: Sequence[Candidate], roots: Sequence[Path], progress: Progress
) -> tuple[list[Candidate], list[str], list[str]]:
    """Return the pictures that show the code of one URL, their URLs, and the problems of the others."""
    paths = [str(file_of(roots, c.key, c.label)) for c in candidates]
    usable, urls, problems = [], [], []
    for candidate, path, (url, problem) in zip(candidates, paths, read_urls(paths, progress), strict=True):
        if problem:
            problems.append(f"{path}: {problem}")
        else:
            usable.append(candidate)
            urls.append(url)
    return usable, urls, problems
