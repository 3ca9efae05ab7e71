"""Make a manifest from a source of images, and prepare the images of a manifest."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.candidates import MAX_LISTED, Candidates, Sampling, Source, divide, draw
from dbbd_cli.data.folder_entries import warn_of_unread
from dbbd_cli.data.images.cache import PreparedImages, cached_images, is_prepared, prepare_images
from dbbd_cli.data.images.file_index import digests_of
from dbbd_cli.data.images.formats import ways_to_read
from dbbd_cli.data.images.refs import ImageRefs, hash_files
from dbbd_cli.data.images.shards import Shards
from dbbd_cli.data.images.sources import files_of
from dbbd_cli.data.manifest import Manifest, Samples
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
        candidates, refs, unreadable = _hash(candidates, source.roots, cleaning, cache_dir, progress)
    else:  # hashed when they were indexed
        refs, unreadable = source.shards.locate(candidates.keys, progress), []
        _fetch(source.shards, refs, image_size, cache_dir, progress)
    candidates, refs, undecodable = _decode(candidates, refs, image_size, cache_dir, progress)
    problems = [*source.problems, *unreadable, *undecodable]
    divided = divide(source, candidates, list(refs.sha256), [""] * len(refs), problems, sampling, "image", progress)
    roots = divided.roots if source.shards is None else (source.shards.folder,) * len(source.classes)
    return replace(divided, roots=roots, is_new=True)


def _hash(
    candidates: Candidates,
    roots: Sequence[Path],
    cleaning: UrlCleaning,
    cache_dir: Path,
    progress: Progress,
) -> tuple[Candidates, ImageRefs, list[str]]:
    """Return the candidates that can be read, their references, and the problems of the others."""
    if not roots:
        return candidates, _url_refs(candidates.keys, cleaning), []
    paths = files_of(roots, candidates.keys, candidates.labels)
    digests = digests_of(paths, roots, cache_dir, progress)
    problems = [
        f"{path}: cannot be read: {digest.strerror}"
        for path, digest in zip(paths, digests, strict=True)
        if isinstance(digest, OSError)
    ]
    if problems:
        readable = [place for place, digest in enumerate(digests) if isinstance(digest, str)]
        candidates = candidates.at(readable)
        paths, digests = [paths[place] for place in readable], [digests[place] for place in readable]
    return candidates, ImageRefs(map(str, digests), paths, are_urls=False), problems


def _fetch(shards: Shards, refs: ImageRefs, image_size: int, cache_dir: Path, progress: Progress) -> None:
    """Download the shards of images whose pixels are not in the cache."""
    if refs and not is_prepared(refs, image_size, cache_dir, progress):
        shards.fetch(refs, progress)


def _decode(
    candidates: Candidates, refs: ImageRefs, image_size: int, cache_dir: Path, progress: Progress
) -> tuple[Candidates, ImageRefs, list[str]]:
    """Prepare the images; return the good ones, and the problems of the others."""
    if not refs:
        return candidates, refs, []
    bad = prepare_images(refs, image_size, cache_dir, progress).problems
    # A URL as it is in the table: cleaning may leave nothing of it.
    problems = [f"{refs[p].path or short(candidates.keys[p])}: {reason}" for p, reason in sorted(bad.items())]
    good = candidates.at([place for place in range(len(candidates)) if place not in bad]) if bad else candidates
    return good, refs.without(bad), problems


def report_skipped(source: Source, progress: Progress) -> None:
    """Report files that are not images, or are in unsupported formats."""
    if source.ignored:
        progress.line(f"Files that are not images were ignored: {source.ignored:,}.")
    warn_of_unread(source.unread, "image", progress)
    for suffix, way in ways_to_read(source.unread).items():
        progress.warn(f"To read {suffix}: {way}")


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
) -> tuple[PreparedImages, Samples]:
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
    samples = manifest.columns
    located = None if shards is None else shards.locate_here(samples.keys, progress)
    refs = refs_of(samples, roots, cleaning, located)
    prepared = cached_images(refs, image_size, cache_dir, progress)
    if prepared is not None:
        if not manifest.is_new and (roots or (shards is not None and not shards.are_remote)):
            _report_changed(samples, refs, located, splits, prepared, progress)
        return prepared, samples
    samples = samples.where(*splits)
    located = None if shards is None else shards.locate(samples.keys, progress)
    refs = refs_of(samples, roots, cleaning, located)
    if shards is not None and located is not None:
        problems = _changed(refs, located.sha256)
        if not problems:
            _fetch(shards, refs, image_size, cache_dir, progress)
    else:
        problems = _changed(refs, digests_of(list(refs.names), roots, cache_dir, progress)) if roots else {}
    if not problems:
        prepared = prepare_images(refs, image_size, cache_dir, progress)
        problems = prepared.problems
    if problems:
        listed = [f"{refs[position].name}: {reason}" for position, reason in sorted(problems.items())]
        are = "is" if len(listed) == 1 else "are"
        raise DataError(
            f"{counted(len(listed), 'image')} of the run's manifest {are} missing, changed or unreadable",
            details=listed[:MAX_LISTED],
            hint="restore them; if they have moved, set the new path with --set data.path=PATH "
            "(or data.classes.NAME=DIR for each class)",
        )
    assert prepared is not None
    return prepared, samples


def _changed(refs: ImageRefs, digests: Sequence[str | OSError]) -> dict[int, str]:
    """Why images are not what the manifest says, by position, given what they are now."""
    reason = "its content has changed" if refs.parts is None else "it is no longer in its shard, or has changed"
    return {
        place: f"cannot be read: {found.strerror}" if isinstance(found, OSError) else reason
        for place, (found, sha256) in enumerate(zip(digests, refs.sha256, strict=True))
        if found != sha256
    }


def _report_changed(
    samples: Samples,
    refs: ImageRefs,
    located: ImageRefs | None,
    splits: Collection[str],
    prepared: PreparedImages,
    progress: Progress,
) -> None:
    """Report files that are missing or have changed, so that their pixels exist only in the cache."""
    needed = [place for place, split in enumerate(samples.splits) if split in splits]
    if located is None:
        changed = _count_changed_files(refs.at(needed), prepared.written_ns() or 0, progress)
    else:
        changed = sum(located.sha256[place] != refs.sha256[place] for place in needed)
    if changed:
        have = "is missing or has" if changed == 1 else "are missing or have"
        progress.line(
            f"{counted(changed, 'image file')} of {len(needed):,} {have} changed: "
            "using the cached pixels from the start of the run."
        )


def _count_changed_files(refs: ImageRefs, since: int, progress: Progress) -> int:
    """The number of files that are missing or have changed, of which only those written later are read again."""
    gone, later = 0, []
    for place, path in enumerate(refs.names):
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path object per file is slow
        except OSError:
            gone += 1
            continue
        if max(status.st_mtime_ns, status.st_ctime_ns) > since:
            later.append(place)
    digests = hash_files([refs.names[place] for place in later], progress) if later else []
    return gone + sum(digest != refs.sha256[place] for place, digest in zip(later, digests, strict=True))


def refs_of(
    samples: Samples, roots: Sequence[Path], cleaning: UrlCleaning, located: ImageRefs | None = None
) -> ImageRefs:
    """Return the images of samples, with the digests of the manifest if they are not URLs.

    Args:
        samples: the samples.
        roots: the current folder of each class; empty for URLs and images in shards.
        cleaning: how URLs are changed before they are rendered.
        located: what `Shards.locate` has found; None if the images are not in shards.

    Raises:
        DataError: a key does not lie in the folder of its class.
    """
    if located is not None:
        return ImageRefs(samples.sha256, located.names, are_urls=False, parts=located.parts)
    if roots:
        return ImageRefs(samples.sha256, files_of(roots, samples.keys, samples.labels), are_urls=False)
    return _url_refs(samples.keys, cleaning)


def _url_refs(urls: Sequence[str], cleaning: UrlCleaning) -> ImageRefs:
    cleaned = [clean_url(url, cleaning) for url in urls]
    return ImageRefs(map(url_sha256, cleaned), cleaned, are_urls=True)
