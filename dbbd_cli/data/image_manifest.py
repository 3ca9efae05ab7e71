"""From a source of images to a manifest, and from a manifest to prepared images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from dbbd_cli.data.image_cache import ImageRef, PreparedImages, cached_images, hash_files, prepare_images, url_sha256
from dbbd_cli.data.image_sources import Source, file_of
from dbbd_cli.data.split import Manifest, Sample, assign_splits, draw_sample
from dbbd_cli.data.url_grammar import host_of
from dbbd_cli.errors import DataError
from dbbd_cli.progress import Progress
from dbbd_cli.text import counted

MAX_LISTED = 50
"""Problems that an error lists; the rest are counted."""

OnError = Literal["fail", "skip"]
HINT_BAD_FILES = "repair or remove them, or leave them out with --set data.on_error=skip"


def make_manifest(
    source: Source,
    *,
    sample_per_class: int | None,
    shares: Sequence[float],
    group_by_host: bool,
    on_error: OnError,
    image_size: int,
    cache_dir: Path,
    seed: int,
    progress: Progress,
) -> Manifest:
    """Draws the sample, checks every image of it, and divides the good ones into splits.

    Samples with the same content stay together, whatever their classes; so do URLs of the same host when asked.

    Raises:
        DataError: images are unreadable and `on_error` is `fail`, or a class has too few.
    """
    candidates = source.candidates
    chosen = draw_sample([c.key for c in candidates], [c.label for c in candidates], sample_per_class, seed)
    candidates = [candidates[position] for position in chosen]
    _tell_sample(source.classes, [c.label for c in candidates], len(source.candidates), sample_per_class, progress)

    if source.ignored:
        progress.line(f"{source.ignored:,} files that are no images were ignored.")
    problems = list(source.problems)
    refs: list[ImageRef] = []
    if source.roots:
        paths = [str(file_of(source.roots, c.key, c.label)) for c in candidates]
        readable = []
        for candidate, path, digest in zip(candidates, paths, hash_files(paths, progress), strict=True):
            if isinstance(digest, OSError):
                problems.append(f"{path}: cannot be read: {digest.strerror}")
            else:
                readable.append(candidate)
                refs.append(ImageRef(digest, path=path))
        candidates = readable
    else:
        refs = [ImageRef(url_sha256(c.key), url=c.key) for c in candidates]
    if refs:
        prepared = prepare_images(refs, image_size, cache_dir, progress)
        problems += [f"{refs[position].name}: {reason}" for position, reason in sorted(prepared.problems.items())]
        good = [position for position in range(len(refs)) if position not in prepared.problems]
        candidates, refs = [candidates[position] for position in good], [refs[position] for position in good]
    _judge_problems(problems, on_error, progress)

    _report_duplicates(source.classes, [ref.sha256 for ref in refs], candidates, progress)
    splits = assign_splits(
        [c.key for c in candidates],
        [c.label for c in candidates],
        _groups([ref.sha256 for ref in refs], [c.key for c in candidates], group_by_host),
        source.classes,
        shares,
        seed,
    )
    samples = tuple(
        Sample(candidate.key, candidate.label, ref.sha256, split)
        for candidate, ref, split in zip(candidates, refs, splits, strict=True)
    )
    return Manifest(source.kind, source.classes, tuple(map(str, source.roots)), samples, tuple(problems))


def _groups(hashes: Sequence[str], keys: Sequence[str], group_by_host: bool) -> list[str]:
    # A URL's content is the URL itself, so equal content implies an equal host.
    return [host_of(key) for key in keys] if group_by_host else list(hashes)


def _tell_sample(
    classes: Sequence[str], labels: Sequence[int], available: int, wanted: int | None, progress: Progress
) -> None:
    if len(labels) < available:
        progress.line(f"Drew {len(labels):,} of {available:,} samples, at most {wanted:,} of each class.")
    if wanted is None:
        return
    for label, name in enumerate(classes):
        count = labels.count(label)
        if count < wanted:
            progress.line(f"Class {name!r} has {count:,} of the {wanted:,} samples asked for; all of them are used.")


def _judge_problems(problems: Sequence[str], on_error: OnError, progress: Progress) -> None:
    if not problems:
        return
    if on_error == "skip":
        were = "file or row was" if len(problems) == 1 else "files or rows were"
        progress.warn(f"{len(problems):,} {were} left out; see splits.json of the run for the reasons.")
        return
    listed = list(problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        listed.append(f"… and {len(problems) - MAX_LISTED:,} more")
    raise DataError(
        f"{counted(len(problems), 'image')} cannot be used",
        details=listed,
        hint=HINT_BAD_FILES,
    )


def _report_duplicates(
    classes: Sequence[str], hashes: Sequence[str], candidates: Sequence[Any], progress: Progress
) -> None:
    places: dict[str, list[int]] = defaultdict(list)
    for position, digest in enumerate(hashes):
        places[digest].append(position)
    across = [found for found in places.values() if len({candidates[p].label for p in found}) > 1]
    within = sum(len(found) - 1 for found in places.values())
    if across:
        examples = "; ".join(
            " = ".join(f"{candidates[p].key} ({classes[candidates[p].label]})" for p in found[:3])
            for found in across[:3]
        )
        progress.warn(
            f"the content of {counted(len(across), 'image')} is in more than one class, "
            f"so no network can get them all right: {examples}"
        )
    if within:
        repeat = "repeats" if within == 1 else "repeat"
        progress.line(f"{counted(within, 'image')} {repeat} the content of another; copies stay in the same split.")


def prepare_manifest(
    manifest: Manifest,
    *,
    splits: Collection[str],
    roots: Sequence[Path],
    image_size: int,
    cache_dir: Path,
    progress: Progress,
) -> tuple[PreparedImages, list[Sample]]:
    """The pixels of a manifest's images, from the cache or from the files.

    Args:
        manifest: the samples.
        splits: the splits that are needed; where nothing is cached, no other file is read.
        roots: where the folders of the manifest are now; they may have moved. None for URLs.
        image_size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: told of every image.

    Returns:
        The pixels, and the sample of each row.

    Raises:
        DataError: files are gone or have changed since the manifest was made, and the cache lacks them.
    """
    samples = list(manifest.samples)
    refs = _refs(samples, roots)
    prepared = cached_images(refs, image_size, cache_dir)
    if prepared is not None:
        return prepared, samples
    samples = [sample for sample in samples if sample.split in splits]
    refs = _refs(samples, roots)
    prepared = prepare_images(refs, image_size, cache_dir, progress)
    if prepared.problems:
        problems = [f"{refs[position].name}: {reason}" for position, reason in sorted(prepared.problems.items())]
        raise DataError(
            f"{counted(len(problems), 'image')} of the run's manifest changed since it was made",
            details=problems[:MAX_LISTED],
            hint="restore them; if the folder has moved, say where it is with --set data.path=DIR "
            "(or data.classes.NAME=DIR for each class)",
        )
    return prepared, samples


def _refs(samples: Sequence[Sample], roots: Sequence[Path]) -> list[ImageRef]:
    if roots:
        return [ImageRef(s.sha256, path=str(file_of(roots, s.key, s.label))) for s in samples]
    return [ImageRef(url_sha256(s.key), url=s.key) for s in samples]
