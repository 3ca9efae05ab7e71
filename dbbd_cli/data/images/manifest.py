"""Make a manifest from a source of images, and prepare the images of a manifest."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.candidates import MAX_LISTED, Candidate, Sampling, Source, divide, draw
from dbbd_cli.data.folder_entries import warn_of_unread
from dbbd_cli.data.images.cache import PreparedImages, cached_images, is_prepared, prepare_images, unverified_images
from dbbd_cli.data.images.formats import ways_to_read
from dbbd_cli.data.images.refs import ImageRef, hash_files
from dbbd_cli.data.images.shards import Shards
from dbbd_cli.data.images.sources import file_of
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.data.problems import short
from dbbd_cli.data.urls.cleaning import UrlCleaning, clean_url, url_sha256


def make_manifest(
    source: Source,
    *,
    cleaning: UrlCleaning,
    sampling: Sampling,
    image_size: int,
    cache_dir: Path,
    progress: Progress,
) -> Manifest:
    """Draw the samples, check every image, and divide the good ones into splits.

    Args:
        source: the classes and possible samples.
        cleaning: how URLs are changed before they are rendered; images that are files ignore it.
        sampling: how samples are drawn and divided.
        image_size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives messages.

    Raises:
        DataError: images are unreadable and must not be skipped, or a class has too few.
    """
    candidates = draw(source, sampling, "image", progress)
    report_skipped(source, progress)
    if source.shards is None:
        candidates, refs, unreadable = _hash(candidates, source.roots, cleaning, progress)
    else:  # hashed when they were indexed
        refs, unreadable = source.shards.locate([c.key for c in candidates], progress), []
        _fetch(source.shards, refs, image_size, cache_dir, progress)
    candidates, refs, undecodable = _decode(candidates, refs, image_size, cache_dir, progress)
    problems = [*source.problems, *unreadable, *undecodable]
    hashes = [ref.sha256 for ref in refs]
    manifest = divide(source, candidates, hashes, [""] * len(refs), problems, sampling, "image", progress)
    if source.shards is None:
        return manifest
    return replace(manifest, roots=(source.shards.folder,) * len(source.classes))


def _hash(
    candidates: Sequence[Candidate], roots: Sequence[Path], cleaning: UrlCleaning, progress: Progress
) -> tuple[list[Candidate], list[ImageRef], list[str]]:
    """Return the candidates that can be read, their references, and the problems of the others."""
    if not roots:
        return list(candidates), [_url_ref(c.key, cleaning) for c in candidates], []
    readable, refs, problems = [], [], []
    paths = [str(file_of(roots, c.key, c.label)) for c in candidates]
    for candidate, path, digest in zip(candidates, paths, hash_files(paths, progress), strict=True):
        if isinstance(digest, OSError):
            problems.append(f"{path}: cannot be read: {digest.strerror}")
        else:
            readable.append(candidate)
            refs.append(ImageRef(digest, path=path))
    return readable, refs, problems


def _fetch(shards: Shards, refs: Sequence[ImageRef], image_size: int, cache_dir: Path, progress: Progress) -> None:
    """Download the shards of images whose pixels are not in the cache."""
    if refs and not is_prepared(refs, image_size, cache_dir):
        shards.fetch(refs, progress)


def _decode(
    candidates: list[Candidate], refs: list[ImageRef], image_size: int, cache_dir: Path, progress: Progress
) -> tuple[list[Candidate], list[ImageRef], list[str]]:
    """Prepare the images; return the good ones, and the problems of the others."""
    if not refs:
        return candidates, refs, []
    # `prepare_manifest` verifies the pixels before they are used.
    bad = prepare_images(refs, image_size, cache_dir, progress, verify=False).problems
    good = [position for position in range(len(refs)) if position not in bad]
    # A URL as it is in the table: cleaning may leave nothing of it.
    problems = [f"{refs[p].path or short(candidates[p].key)}: {reason}" for p, reason in sorted(bad.items())]
    return [candidates[position] for position in good], [refs[position] for position in good], problems


def report_skipped(source: Source, progress: Progress) -> None:
    """Report files that are not images, or are in unsupported formats."""
    if source.ignored:
        progress.line(f"Files that are not images were ignored: {source.ignored:,}.")
    warn_of_unread(source.unread, "image", progress)
    for suffix, way in ways_to_read(source.unread).items():
        progress.warn(f"To read {suffix}: {way}")


def prepared_images(manifest: Manifest, image_size: int, cache_dir: Path) -> PreparedImages | None:
    """Return the images of a manifest that has just been made.

    Nothing is decoded or verified: they come from the cache that `make_manifest` has filled. None if it is gone.
    """
    # The cache knows images by their digests and suffixes.
    refs = [
        ImageRef(s.sha256, path=s.key) if manifest.roots else ImageRef(s.sha256, url=s.key) for s in manifest.samples
    ]
    return unverified_images(refs, image_size, cache_dir)


def prepare_manifest(
    manifest: Manifest,
    *,
    splits: Collection[str],
    roots: Sequence[Path],
    cleaning: UrlCleaning,
    image_size: int,
    cache_dir: Path,
    progress: Progress,
    shards: Shards | None = None,
) -> tuple[PreparedImages, list[Sample]]:
    """Return the pixels of a manifest's images, from the cache or the files.

    Args:
        manifest: the samples.
        splits: the splits that are needed; without a cache, only their files are read.
        roots: the current folder of each class, which may have moved; empty for URLs and images in shards.
        cleaning: how URLs are changed before they are rendered.
        image_size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives every image.
        shards: the current shards of the images, which may have moved; None for other sources.

    Returns:
        The pixels, and the sample of each row.

    Raises:
        DataError: files are missing or have changed since the manifest was made, and are not in the cache.
    """
    samples = list(manifest.samples)
    # The cache knows images in shards by digest and suffix: it may have them while the shards are gone.
    refs = _refs(samples, roots, cleaning) if shards is None else [ImageRef(s.sha256, path=s.key) for s in samples]
    prepared = cached_images(refs, image_size, cache_dir, progress)
    if prepared is not None:
        written, needed = prepared.written_ns() or 0, [s for s in samples if s.split in splits]
        if shards is None:
            changed = _count_changed(_refs(needed, roots, cleaning), written, progress)
        else:
            changed = shards.count_changed(needed, written)
        _report_changed(changed, len(needed), progress)
        return prepared, samples
    samples = [sample for sample in samples if sample.split in splits]
    if shards is None:
        refs = _refs(samples, roots, cleaning)
    else:
        found = shards.locate((sample.key for sample in samples), progress)
        refs = [replace(ref, sha256=sample.sha256) for ref, sample in zip(found, samples, strict=True)]
        _fetch(shards, refs, image_size, cache_dir, progress)
    prepared = prepare_images(refs, image_size, cache_dir, progress)
    if prepared.problems:
        problems = [f"{refs[position].name}: {reason}" for position, reason in sorted(prepared.problems.items())]
        are = "is" if len(problems) == 1 else "are"
        raise DataError(
            f"{counted(len(problems), 'image')} of the run's manifest {are} missing, changed or unreadable",
            details=problems[:MAX_LISTED],
            hint="restore them; if they have moved, set the new path with --set data.path=PATH "
            "(or data.classes.NAME=DIR for each class)",
        )
    return prepared, samples


def _count_changed(refs: Sequence[ImageRef], since: int, progress: Progress) -> int:
    """The number of files that are missing or have changed, of which only those written later are read again."""
    gone, later = 0, []
    for ref in refs:
        if ref.path is not None:
            try:
                status = os.stat(ref.path)  # noqa: PTH116 - a Path object per file is slow
            except OSError:
                gone += 1
                continue
            if max(status.st_mtime_ns, status.st_ctime_ns) > since:
                later.append(ref)
    digests = hash_files([str(ref.path) for ref in later], progress) if later else []
    return gone + sum(digest != ref.sha256 for ref, digest in zip(later, digests, strict=True))


def _report_changed(changed: int, total: int, progress: Progress) -> None:
    """Report how many images exist only in the cache."""
    if changed:
        have = "is missing or has" if changed == 1 else "are missing or have"
        progress.line(
            f"{counted(changed, 'image file')} of {total:,} {have} changed: "
            "using the cached pixels from the start of the run."
        )


def _refs(samples: Sequence[Sample], roots: Sequence[Path], cleaning: UrlCleaning) -> list[ImageRef]:
    if roots:
        return [ImageRef(s.sha256, path=str(file_of(roots, s.key, s.label))) for s in samples]
    return [_url_ref(s.key, cleaning) for s in samples]


def _url_ref(url: str, cleaning: UrlCleaning) -> ImageRef:
    cleaned = clean_url(url, cleaning)
    return ImageRef(url_sha256(cleaned), url=cleaned)
