"""Cache of decoded images: each is read, checked and resized once, then read from one file by every run.

The cache of a dataset is one file of shape (N, C, S, S), uint8: images, channels (1 if all are gray, else 3), height
and width, followed by checksums. Its name is a hash of the content of all images and of the way they were prepared:
a changed image leads to another file, and runs and processes can share one. Each image is verified when it is read; a
damaged one is prepared again. If some images are bad, the file is named after the good ones, and a small record, named
after all of them, lists the bad ones, so that the next run finds the file and does not try them again.

Pixels that are larger than the limit of the cache, or than what is free on its disk, are not kept. Images are then
checked once, and prepared again whenever they are needed; the cache only remembers which ones are good.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.files import read_file, write_text
from dbbd_cli.core.progress import Phase, Progress, Silent
from dbbd_cli.core.temporary import discard, temporary_file
from dbbd_cli.core.text import printable
from dbbd_cli.data import cache as shared_cache
from dbbd_cli.data.array_cache import SUFFIX, read_arrays, write_arrays
from dbbd_cli.data.cache import disk_errors, entry_lock, make_room, mark_used
from dbbd_cli.data.checked_file import CheckedRows, append_checksums, size_with_checksums, written_ns
from dbbd_cli.data.images.file_index import places_of
from dbbd_cli.data.images.formats import reader_versions
from dbbd_cli.data.images.processes import (
    Problem,
    RowWriter,
    Shape,
    prepare_image,
    prepare_in_workers,
    prepare_rows,
)
from dbbd_cli.data.images.refs import ImageRef, ImageRefs
from dbbd_cli.data.problems import why

CACHE_FORMAT = 4
BYTES_WORTH_A_BAR = 1 << 30
"""Writing a smaller cache takes a few seconds."""
ROWS_PER_JOB = 64
ROWS_WORTH_PROCESSES = 512
"""Starting processes takes about half a second; fewer QR codes are rendered faster in this process."""


@dataclass(frozen=True)
class PreparedImages:
    """The images of a dataset that can be prepared, and their cache.

    Attributes:
        path: the cache file, if `is_kept`.
        shape: N good images, C channels, height and width.
        problems: why other images cannot be prepared, by position among the given images.
        refs: the good images.
        is_kept: whether the pixels are in the cache; otherwise images are prepared when they are read, and C is 3.
    """

    path: Path
    shape: Shape
    problems: dict[int, str]
    refs: Sequence[ImageRef] = field(default=(), compare=False, repr=False)
    is_kept: bool = True

    @property
    def num_bytes(self) -> int:
        """Size of the pixels in bytes."""
        return self.shape[0] * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Size of the pixels of an image in bytes."""
        return math.prod(self.shape[1:])

    @property
    def file_bytes(self) -> int:
        """Size of the cache file in bytes."""
        return size_with_checksums(self.shape[0], self.row_bytes)

    def written_ns(self) -> int | None:
        """Time at which the file was written, nanoseconds since 1970; None if it has been removed or damaged since."""
        try:
            return written_ns(self.path, self.shape[0], self.row_bytes)
        except OSError:
            return None

    def open(self) -> Pixels:
        """Open the pixels for reading."""
        return Pixels(self)


class Pixels:
    """The pixels of prepared images, read from the cache, or prepared again if it does not have them undamaged.

    Args:
        prepared: the images.

    Raises:
        DiskError: the cache file cannot be read.
    """

    def __init__(self, prepared: PreparedImages) -> None:
        self.prepared = prepared
        self.shape = prepared.shape
        self._rows: CheckedRows | None = None
        if prepared.is_kept:
            try:
                self._rows = CheckedRows(prepared.path, prepared.shape[0], prepared.row_bytes)
            except OSError as error:
                raise DiskError(
                    f"the image cache cannot be read: {why(error)}", hint="run the command again, which makes it again"
                ) from error

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> tuple[type[Pixels], tuple[PreparedImages]]:
        return Pixels, (self.prepared,)  # a process that is not forked opens the file itself

    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the pixels `(B, C, S, S)`, uint8, of some images, or of one; C is 1 if all of these are gray.

        Raises:
            DataError: an image is not in the cache, or damaged there, and cannot be prepared again.
        """
        if isinstance(rows, (int, np.integer)):
            row: np.ndarray = self[[range(len(self))[rows]]][0]
            return row
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        pixels = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, number in enumerate(chosen):
            if self._rows is None or not self._rows.read(int(number), pixels[place]):
                pixels[place] = self._made(self.prepared.refs[int(number)])
        is_gray = self._rows is None and (pixels == pixels[:, :1]).all()
        return np.ascontiguousarray(pixels[:, :1]) if is_gray else pixels

    def _made(self, ref: ImageRef) -> np.ndarray:
        cache_file = self.prepared.path
        make_again = f"delete {printable(str(cache_file))}, and the next command makes it again from the shards"
        if ref.part is not None and ref.part.file == os.devnull:  # it is not known where the shards are
            raise DataError(f"{printable(ref.name)}: its pixels in the cache are damaged", hint=make_again)
        try:
            pixels = prepare_image(ref, self.shape[2])
        except (DataError, OSError, ValueError) as error:
            hint = "restore the file; if files have moved, set the new path with --set data.path=PATH"
            if ref.part is not None and Path(ref.part.file).parent == cache_file.parent:
                is_kept = self.prepared.is_kept
                hint = make_again if is_kept else "run the command again, which downloads the shard again"
            raise DataError(f"{printable(ref.name)}: {why(error)}", hint=hint) from error
        return pixels[: self.shape[1]]


def cached_images(refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress) -> PreparedImages | None:
    """Return the prepared images if all are in the cache, otherwise None.

    Args:
        refs: the images; all files, or all URLs.
        size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives a warning about a damaged cache, which is removed.
    """
    return _usable_entry(ImageRefs.of(refs), size, cache_dir, {}, progress)


def is_prepared(refs: ImageRefs, size: int, cache_dir: Path, progress: Progress) -> bool:
    """Return whether the cache has the pixels of these images, or of all but those that it knows to be bad.

    For the arguments, see `cached_images`.
    """
    return _existing_entry(refs, size, cache_dir, progress) is not None


def prepare_images(refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress) -> PreparedImages:
    """Decode, check and resize images, unless they are in the cache.

    Other files of the cache make room, see `data.cache.make_room`.

    Args:
        refs: the images; all files, or all URLs.
        size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: receives each image, and a warning about a damaged cache.

    Returns:
        The prepared images, without the unreadable ones.

    Raises:
        DataError: worker processes cannot be started.
        DiskError: the cache cannot be written.
    """
    refs = ImageRefs.of(refs)
    if (existing := _existing_entry(refs, size, cache_dir, progress)) is not None:
        return existing
    whole = _entry(refs, size, cache_dir, {})
    with entry_lock(whole.path), disk_errors(cache_dir):
        if (existing := _existing_entry(refs, size, cache_dir, Silent())) is not None:  # by another process meanwhile
            return existing
        if not _fits(whole):
            return _check(refs, whole, progress)
        shards = refs.parts.files if refs.parts else ()
        make_room(cache_dir, needed=whole.file_bytes, keep=map(Path, shards))
        return _fill(refs, whole, progress)


def _fits(whole: PreparedImages) -> bool:
    """Whether the pixels are kept: within the limit of the cache, and in half of what is free on its disk."""
    return whole.file_bytes <= min(shared_cache.LIMIT_BYTES, shutil.disk_usage(whole.path.parent).free // 2)


def _check(refs: ImageRefs, whole: PreparedImages, progress: Progress) -> PreparedImages:
    """Find the bad images among those whose pixels are not kept; good ones are checked only once."""
    progress.line(
        f"The pixels of {len(refs):,} images take up to {whole.num_bytes / 1e9:,.1f} GB, too much for the cache: "
        "each image is decoded whenever it is needed."
    )
    bad = {row: Problem(reason, lasting=True) for row, reason in _read_record(_record(whole), refs).items()}
    index = whole.path.with_name(f"checked-{hashlib.sha256(reader_versions().encode()).hexdigest()[:32]}{SUFFIX}")
    known = read_arrays(index, lambda arrays: len(arrays["keys"]) > 0)
    keys = np.frombuffer(bytes.fromhex("".join(sha256[:32] for sha256 in refs.sha256)), "<u8").reshape(-1, 2)
    is_known = np.zeros(len(refs), bool) if known is None else places_of(known["keys"], keys) >= 0
    new = [row for row in np.flatnonzero(~is_known).tolist() if row not in bad]
    if new:
        found = _prepare(None, (len(new), *whole.shape[1:]), refs.at(new), progress)
        bad |= {new[place]: problem for place, problem in found.items()}
        good = keys[[row for row in new if row not in bad]]
        keys = np.unique(good if known is None else np.concatenate([known["keys"], good]), axis=0)
        write_arrays(index, {"keys": keys})
        _write_record(whole, bad)
    problems = {row: bad[row].reason for row in sorted(bad)}
    prepared = _entry(refs, whole.shape[2], whole.path.parent, problems)
    return replace(prepared, is_kept=False)


def _existing_entry(refs: ImageRefs, size: int, cache_dir: Path, progress: Progress) -> PreparedImages | None:
    """The cache entry of these images, or of all but those recorded as bad; None if there is none."""
    if (whole := _usable_entry(refs, size, cache_dir, {}, progress)) is not None:
        return whole
    problems = _read_record(_record(_entry(refs, size, cache_dir, {})), refs)
    return _usable_entry(refs, size, cache_dir, problems, progress) if problems else None


def _usable_entry(
    refs: ImageRefs, size: int, cache_dir: Path, problems: dict[int, str], progress: Progress
) -> PreparedImages | None:
    """The cache entry of the good images if it exists."""
    found = (_entry(refs, size, cache_dir, problems, channels) for channels in (1, 3))
    return next((prepared for prepared in found if _is_usable(prepared, progress)), None)


def _entry(
    refs: ImageRefs, size: int, cache_dir: Path, problems: dict[int, str], channels: int | None = None
) -> PreparedImages:
    """The cache entry of the good images, existing or not; by default with as many channels as they may need."""
    channels = channels or (1 if refs.are_urls else 3)
    good = refs.without(problems)
    name = hashlib.sha256(json.dumps([CACHE_FORMAT, channels, size, good.digest]).encode()).hexdigest()[:32]
    return PreparedImages(cache_dir / f"images-{name}.u8", (len(good), channels, size, size), problems, good)


def _record(whole: PreparedImages) -> Path:
    return whole.path.with_suffix(".json")


def _is_usable(prepared: PreparedImages, progress: Progress) -> bool:
    try:
        if not prepared.path.is_file():
            return False
        if prepared.written_ns() is not None:
            mark_used(prepared.path)
            return True
        progress.warn(f"The image cache {printable(str(prepared.path))} is damaged; preparing the images again.")
        prepared.path.unlink()
    except OSError:
        return False
    return False


def _read_record(path: Path, refs: Sequence[ImageRef]) -> dict[int, str]:
    """The bad images according to a record that was made with the same readers; others may read more images."""
    try:
        record = json.loads(read_file(path))
        problems = {int(position): str(reason) for position, reason in record["problems"].items()}
        known = all(0 <= position < len(refs) for position in problems) and record["readers"] == reader_versions()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # missing or damaged
        return {}
    return problems if known else {}


def _fill(refs: ImageRefs, whole: PreparedImages, progress: Progress) -> PreparedImages:
    """Write the cache file, without unreadable images."""
    temporary = temporary_file(whole.path)
    try:
        _reserve(temporary, whole.num_bytes)
        found = _prepare(temporary, whole.shape, refs, progress)
        problems = {row: found[row].reason for row in sorted(found)}
        prepared = _entry(refs, whole.shape[2], whole.path.parent, problems)
        if len(found) == len(refs):
            return prepared
        shown = progress if whole.num_bytes >= BYTES_WORTH_A_BAR else Silent()
        with shown.phase("Writing the image cache", 2 * len(refs), unit="images", sample_unit="images") as bar:
            if whole.shape[1] > 1 and _is_gray(temporary, whole.shape, found, bar):
                prepared = _entry(refs, whole.shape[2], whole.path.parent, problems, channels=1)
            if prepared.shape != whole.shape:
                _shrink(temporary, whole.shape, found, prepared.shape[1], bar)
            append_checksums(temporary, prepared.row_bytes, prepared.path.name)
        temporary.replace(prepared.path)
    finally:
        discard(temporary)
    _write_record(whole, found)
    return prepared


def _write_record(whole: PreparedImages, found: Mapping[int, Problem]) -> None:
    """Record the bad images, unless a problem does not depend on the content, such as a missing permission."""
    if found and all(problem.lasting for problem in found.values()):
        problems = {row: found[row].reason for row in sorted(found)}
        write_text(_record(whole), json.dumps({"readers": reader_versions(), "problems": problems}))


def _prepare(path: Path | None, shape: Shape, refs: ImageRefs, progress: Progress) -> dict[int, Problem]:
    """Prepare all images, in worker processes except for few QR codes; return those that could not be prepared.

    Args:
        path: the file for their pixels; None: they are only checked.
        shape: of the pixels.
        refs: the images.
        progress: receives each image.
    """
    problems: dict[int, Problem] = {}
    title = "Rendering QR codes" if refs.are_urls else "Decoding images" if path else "Checking images"
    with progress.phase(title, len(refs), unit="images", sample_unit="images") as bar:
        if refs.are_urls and (len(refs) < ROWS_WORTH_PROCESSES or (os.cpu_count() or 1) == 1):
            for row, problem in enumerate(prepare_rows(RowWriter(path, shape), enumerate(refs))):
                if problem is not None:
                    problems[row] = problem
                bar.advance(samples=1)
        else:
            jobs = ((start, refs[start : start + ROWS_PER_JOB]) for start in range(0, len(refs), ROWS_PER_JOB))
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


def _is_gray(path: Path, shape: Shape, bad: Container[int], bar: Phase) -> bool:
    """Whether the channels of every good image are equal."""
    with path.open("rb") as file:
        return all((part == part[:, :1]).all() for part in _good_parts(file, shape, bad, bar))


def _shrink(path: Path, shape: Shape, bad: Container[int], channels: int, bar: Phase) -> None:
    """Keep only the first channels of the good images."""
    with path.open("rb") as file, path.open("r+b") as target:
        for part in _good_parts(file, shape, bad, bar):
            target.write(part[:, :channels].tobytes())
        target.truncate()


def _good_parts(file: BinaryIO, shape: Shape, bad: Container[int], bar: Phase) -> Iterator[np.ndarray]:
    """Yield the pixels of all good images, some at a time."""
    for first in range(0, shape[0], ROWS_PER_JOB):
        count = min(ROWS_PER_JOB, shape[0] - first)
        part = np.fromfile(file, np.uint8, count * math.prod(shape[1:])).reshape(count, *shape[1:])
        yield part[[place for place in range(count) if first + place not in bad]]
        bar.advance(count)
