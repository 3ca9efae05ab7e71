"""Cache of decoded images: each is read, checked and resized once, then memory-mapped by every run.

The cache of a dataset is one file of shape (N, C, S, S), uint8: images, channels (1 if all are gray, else 3), height
and width, followed by checksums. Its name is a hash of the content of all images and of the way they were prepared:
a changed image leads to another file, and runs and processes can share one. The pixels are verified before they are
used; a damaged file is prepared again. If some images are bad, the file is named after the good ones, and a small
record, named after all of them, lists the bad ones, so that the next run finds the file and does not try them again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbbd_cli.core.files import read_file, write_text
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.temporary import discard, temporary_file
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache import disk_errors, entry_lock, make_room, mark_used
from dbbd_cli.data.checked_file import append_checksums, checksums_match, size_with_checksums, written_ns
from dbbd_cli.data.images.formats import reader_versions
from dbbd_cli.data.images.processes import Problem, Shape, prepare_in_workers, prepare_rows
from dbbd_cli.data.images.refs import ImageRef

CACHE_FORMAT = 3
BYTES_WORTH_A_BAR = 1 << 30
"""Verifying a smaller cache takes less than a second."""
ROWS_PER_JOB = 64
ROWS_WORTH_PROCESSES = 512
"""Starting processes takes about half a second; fewer QR codes are rendered faster in this process."""


@dataclass(frozen=True)
class PreparedImages:
    """The cache of a dataset, and the images that could not be prepared."""

    path: Path
    shape: Shape
    problems: dict[int, str]
    """Reason by position among the given images; the other images are the rows of the file, in order."""

    @property
    def num_bytes(self) -> int:
        """Size of the pixels in bytes."""
        return int(np.prod(self.shape))

    def written_ns(self) -> int | None:
        """Time at which the file was written, nanoseconds since 1970; None if it has been removed or damaged since."""
        try:
            return written_ns(self.path, self.num_bytes)
        except OSError:
            return None

    def open(self) -> np.ndarray:
        """Map the pixels `(N, C, S, S)` into memory, read-only."""
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)


def cached_images(refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress) -> PreparedImages | None:
    """Return the prepared images if all are in the cache and undamaged, otherwise None.

    Args:
        refs: the images; all files, or all URLs.
        size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives a warning about a damaged cache, which is removed.
    """
    return _usable_entry(refs, size, cache_dir, {}, progress)


def unverified_images(refs: Sequence[ImageRef], size: int, cache_dir: Path) -> PreparedImages | None:
    """Return the prepared images if all are in the cache, without reading them, otherwise None.

    For the arguments, see `cached_images`.
    """
    return _usable_entry(refs, size, cache_dir, {}, None)


def is_prepared(refs: Sequence[ImageRef], size: int, cache_dir: Path) -> bool:
    """Return whether the cache has the pixels of these images, or of all but those that it knows to be bad.

    Nothing is verified. For the arguments, see `cached_images`.
    """
    return _existing_entry(refs, size, cache_dir, None) is not None


def prepare_images(
    refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress, *, verify: bool = True
) -> PreparedImages:
    """Decode, check and resize images, unless they are in the cache.

    Other files of the cache make room, see `data.cache.make_room`. A dataset that exceeds the limit by itself is
    written nevertheless, since there is no training without it; then nothing else is kept.

    Args:
        refs: the images; all files, or all URLs.
        size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives each image, and a warning about a damaged cache.
        verify: whether to verify the pixels of an existing cache, which reads all of them.

    Returns:
        The prepared images, without the unreadable ones.

    Raises:
        DataError: worker processes cannot be started.
        DiskError: the cache cannot be written.
    """
    if (existing := _existing_entry(refs, size, cache_dir, progress if verify else None)) is not None:
        return existing
    whole = _entry(refs, size, cache_dir, {})
    with entry_lock(whole.path), disk_errors(cache_dir):
        if (existing := _existing_entry(refs, size, cache_dir, Silent())) is not None:  # by another process meanwhile
            return existing
        shards = {Path(ref.part.file) for ref in refs if ref.part}
        make_room(cache_dir, needed=size_with_checksums(whole.num_bytes), keep=shards)
        return _fill(refs, whole, progress)


def _existing_entry(
    refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress | None
) -> PreparedImages | None:
    """The cache entry of these images, or of all but those recorded as bad; None if there is none."""
    if (whole := _usable_entry(refs, size, cache_dir, {}, progress)) is not None:
        return whole
    record = _entry(refs, size, cache_dir, {}).path.with_suffix(".json")
    problems = _read_record(record, refs)
    return _usable_entry(refs, size, cache_dir, problems, progress) if problems else None


def _usable_entry(
    refs: Sequence[ImageRef], size: int, cache_dir: Path, problems: dict[int, str], progress: Progress | None
) -> PreparedImages | None:
    """The cache entry of the good images if it exists; its pixels are verified if `progress` is given."""
    found = (_entry(refs, size, cache_dir, problems, channels) for channels in (1, 3))
    return next((prepared for prepared in found if _is_usable(prepared, progress)), None)


def _entry(
    refs: Sequence[ImageRef], size: int, cache_dir: Path, problems: dict[int, str], channels: int | None = None
) -> PreparedImages:
    """The cache entry of the good images, existing or not; by default with as many channels as they may need."""
    channels = channels or (1 if refs[0].url is not None else 3)
    good = [ref for position, ref in enumerate(refs) if position not in problems]
    return PreparedImages(cache_dir / _cache_name(good, channels, size), (len(good), channels, size, size), problems)


def _cache_name(refs: Sequence[ImageRef], channels: int, size: int) -> str:
    hasher = hashlib.sha256(json.dumps([CACHE_FORMAT, channels, size]).encode())
    for ref in refs:
        suffix = os.path.splitext(ref.path)[1].lower() if ref.path else "url"  # noqa: PTH122 - a Path per file is slow
        hasher.update(f"{ref.sha256}{suffix}\n".encode())
    return f"images-{hasher.hexdigest()[:32]}.u8"


def _is_usable(prepared: PreparedImages, progress: Progress | None) -> bool:
    path, size = prepared.path, prepared.num_bytes
    try:
        if not path.is_file():
            return False
        if progress is None:
            intact = written_ns(path, size) is not None
        elif size < BYTES_WORTH_A_BAR:
            intact = checksums_match(path, size)
        else:
            with progress.phase(
                "Verifying the image cache", prepared.shape[0], unit="images", sample_unit="images"
            ) as bar:
                intact = checksums_match(path, size)
                bar.advance(prepared.shape[0])
        if intact:
            mark_used(path)
        elif progress is not None:
            progress.warn(f"The image cache {printable(str(path))} is damaged; preparing the images again.")
            path.unlink()
    except OSError:
        return False
    return intact


def _read_record(path: Path, refs: Sequence[ImageRef]) -> dict[int, str]:
    """The bad images according to a record that was made with the same readers; others may read more images."""
    try:
        record = json.loads(read_file(path))
        problems = {int(position): str(reason) for position, reason in record["problems"].items()}
        known = all(0 <= position < len(refs) for position in problems) and record["readers"] == reader_versions()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # missing or damaged
        return {}
    return problems if known else {}


def _fill(refs: Sequence[ImageRef], whole: PreparedImages, progress: Progress) -> PreparedImages:
    """Write the cache file, without unreadable images."""
    temporary = temporary_file(whole.path)
    try:
        _reserve(temporary, whole.num_bytes)
        found = _prepare(temporary, whole.shape, refs, progress)
        problems = {row: found[row].reason for row in sorted(found)}
        prepared = _entry(refs, whole.shape[2], whole.path.parent, problems)
        if len(found) == len(refs):
            return prepared
        if found:
            _keep_rows(temporary, whole.shape, [row for row in range(len(refs)) if row not in found])
        if prepared.shape[1] > 1 and _is_gray(temporary, prepared.shape):
            _keep_one_channel(temporary, prepared.shape)
            prepared = _entry(refs, whole.shape[2], whole.path.parent, problems, channels=1)
        append_checksums(temporary, prepared.path.name)
        temporary.replace(prepared.path)
    finally:
        discard(temporary)
    # Problems that do not depend on the content, such as a missing permission, are not recorded.
    if found and all(problem.lasting for problem in found.values()):
        record = {"readers": reader_versions(), "problems": prepared.problems}
        write_text(whole.path.with_suffix(".json"), json.dumps(record))
    return prepared


def _prepare(path: Path, shape: Shape, refs: Sequence[ImageRef], progress: Progress) -> dict[int, Problem]:
    """Write all rows, in worker processes except for few QR codes; return the rows that could not be prepared."""
    problems: dict[int, Problem] = {}
    title = "Rendering QR codes" if shape[1] == 1 else "Decoding images"
    with progress.phase(title, len(refs), unit="images", sample_unit="images") as bar:
        if refs[0].path is None and (len(refs) < ROWS_WORTH_PROCESSES or (os.cpu_count() or 1) == 1):
            pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
            for row, problem in enumerate(prepare_rows(pixels, enumerate(refs))):
                if problem is not None:
                    problems[row] = problem
                bar.advance(samples=1)
        else:
            jobs = [(start, refs[start : start + ROWS_PER_JOB]) for start in range(0, len(refs), ROWS_PER_JOB)]
            # An error or Ctrl-C must end the processes immediately, not when the generator is garbage-collected.
            with closing(prepare_in_workers(path, shape, jobs)) as results:
                for count, found in results:
                    problems.update(found)
                    bar.advance(count, samples=count)
    return problems


def _reserve(path: Path, size: int) -> None:
    """Create a file of zeros with allocated blocks: a disk that fills up under a memory map would kill the process."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free")
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _keep_rows(path: Path, shape: Shape, rows: Sequence[int]) -> None:
    """Move the given rows to the front of the file and truncate it."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    for target, source in enumerate(rows):
        if target != source:
            pixels[target] = pixels[source]
    pixels.flush()
    del pixels
    os.truncate(path, len(rows) * int(np.prod(shape[1:])))


def _is_gray(path: Path, shape: Shape) -> bool:
    """Whether the channels of every image are equal."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    parts = (pixels[first : first + ROWS_PER_JOB] for first in range(0, len(pixels), ROWS_PER_JOB))
    return all(bool((part == part[:, :1]).all()) for part in parts)


def _keep_one_channel(path: Path, shape: Shape) -> None:
    """Move the first channel of each image to the front of the file and truncate it to a third."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    kept = pixels.reshape(-1)[: len(pixels) * shape[2] * shape[3]].reshape(len(pixels), shape[2], shape[3])
    for row in range(len(pixels)):
        kept[row] = pixels[row, 0].copy()
    pixels.flush()
    del pixels, kept
    os.truncate(path, shape[0] * shape[2] * shape[3])
