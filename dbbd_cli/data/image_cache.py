"""Decoded images on disk: each picture is read, checked and resized once, then mapped into memory by every run.

The cache of a data set is one file of shape (N, C, S, S), uint8, whose name is a hash of the content of all its
images and of the way they were prepared. A changed image therefore makes another file, and two runs, or two
processes, can share one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock

from dbbd_cli.data.image_file import ImageFileError, decode_image
from dbbd_cli.data.qr_code import render_qr
from dbbd_cli.errors import DataError, DiskError
from dbbd_cli.progress import Progress

# N = images, C = channels (1 for rendered codes, 3 for files), S = image_size.

CACHE_FORMAT = 1
CACHE_LIMIT_BYTES = 40 * 1024**3
STRAY_SECONDS = 24 * 3600
"""A temporary file that was not written to for so long was left by a process that was killed."""
ROWS_PER_JOB = 64
ROWS_WORTH_PROCESSES = 512
"""Starting processes takes about half a second: below this many images one process is quicker."""


@dataclass(frozen=True)
class ImageRef:
    """An image to be prepared: a file with the hash of its content, or a URL to be rendered."""

    sha256: str
    path: str | None = None
    url: str | None = None

    @property
    def name(self) -> str:
        """What a person knows the image by."""
        return self.path or self.url or ""


def url_sha256(url: str) -> str:
    """The content hash of a URL."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()


def hash_files(paths: Sequence[str], progress: Progress) -> list[str | OSError]:
    """The SHA-256 of each file, or the error that reading it raised."""

    def digest(path: str) -> str | OSError:
        hasher = hashlib.sha256()
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - a Path object per file costs more than hashing it
                while chunk := file.read(1 << 20):
                    hasher.update(chunk)
        except OSError as error:
            return error
        return hasher.hexdigest()

    hashes = []
    with progress.phase("Hashing", len(paths), unit="files") as bar, ThreadPoolExecutor(8) as pool:
        for result in pool.map(digest, paths):
            hashes.append(result)
            bar.advance()
    return hashes


def default_cache_dir() -> Path:
    """The user's cache folder for dbbd: `$DBBD_CACHE_DIR`, or the platform's place."""
    if configured := os.environ.get("DBBD_CACHE_DIR"):
        return Path(configured)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "dbbd" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dbbd"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbd"


@dataclass(frozen=True)
class PreparedImages:
    """The cache of a data set, and the images that could not be prepared."""

    path: Path
    shape: tuple[int, int, int, int]
    problems: dict[int, str]
    """Position among the given images to reason; the other images are the rows of the file, in order."""

    def open(self) -> np.ndarray:
        """Maps the pixels `(N, C, S, S)` into memory, read only."""
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=self.shape)


def cached_images(refs: Sequence[ImageRef], size: int, cache_dir: Path) -> PreparedImages | None:
    """The prepared images, where that was done before."""
    channels = 1 if refs[0].url is not None else 3
    path = cache_dir / _cache_name(refs, channels, size)
    shape = (len(refs), channels, size, size)
    return PreparedImages(path, shape, {}) if _usable(path, shape) else None


def prepare_images(refs: Sequence[ImageRef], size: int, cache_dir: Path, progress: Progress) -> PreparedImages:
    """Decodes, checks and resizes images, or finds that this was done before.

    Args:
        refs: the images; all files, or all URLs.
        size: height and width in pixels.
        cache_dir: folder of the caches.
        progress: told of every image.

    Returns:
        The prepared images, without those that are unreadable.

    Raises:
        DiskError: the cache cannot be written.
    """
    cached = cached_images(refs, size, cache_dir)
    if cached is not None:
        return cached
    channels = 1 if refs[0].url is not None else 3
    path = cache_dir / _cache_name(refs, channels, size)
    shape = (len(refs), channels, size, size)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if _usable(path, shape):  # another process made it while this one waited
                return PreparedImages(path, shape, {})
            make_room(cache_dir, needed=int(np.prod(shape)))
            problems = _fill(path, refs, shape, progress)
    except OSError as error:
        raise DiskError(
            f"the image cache {cache_dir} cannot be written: {error.strerror or error}",
            hint="make room there, or choose another folder with --set data.cache_dir=DIR",
        ) from error
    if not problems:
        return PreparedImages(path, shape, {})
    good = [ref for position, ref in enumerate(refs) if position not in problems]
    return PreparedImages(cache_dir / _cache_name(good, channels, size), (len(good), channels, size, size), problems)


def _cache_name(refs: Sequence[ImageRef], channels: int, size: int) -> str:
    hasher = hashlib.sha256(json.dumps([CACHE_FORMAT, channels, size]).encode())
    for ref in refs:
        suffix = Path(ref.path).suffix.lower() if ref.path else "url"
        hasher.update(f"{ref.sha256}{suffix}\n".encode())
    return f"images-{hasher.hexdigest()[:32]}.u8"


def _usable(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        if path.stat().st_size != int(np.prod(shape)):
            return False
        os.utime(path)  # the time of last use, by which old caches are removed
    except OSError:
        return False
    return True


def make_room(cache_dir: Path, needed: int, limit: int = CACHE_LIMIT_BYTES) -> None:
    """Removes the caches that were used least recently until `needed` bytes fit below `limit`."""
    for stray in cache_dir.glob("images-*.tmp"):
        if time.time() - stray.stat().st_mtime > STRAY_SECONDS:
            stray.unlink(missing_ok=True)
    files = sorted(cache_dir.glob("images-*.u8"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total + needed <= limit:
            return
        size = file.stat().st_size
        try:
            file.unlink()
        except OSError:  # in use, on systems that forbid removing open files
            continue
        total -= size


def _fill(path: Path, refs: Sequence[ImageRef], shape: tuple[int, int, int, int], progress: Progress) -> dict[int, str]:
    """Writes the cache file, without the images that are unreadable; returns these with the reasons."""
    temporary = path.with_suffix(".tmp")
    problems: dict[int, str] = {}
    try:
        _reserve(temporary, int(np.prod(shape)))
        jobs = [(start, list(refs[start : start + ROWS_PER_JOB])) for start in range(0, len(refs), ROWS_PER_JOB)]
        title = "Rendering QR codes" if shape[1] == 1 else "Decoding images"
        with progress.phase(title, len(refs), unit="images", noun="images") as bar:
            if len(refs) < ROWS_WORTH_PROCESSES or (os.cpu_count() or 1) == 1:
                for start, part in jobs:
                    problems.update(prepare_rows(temporary, shape, start, part))
                    bar.advance(len(part), samples=len(part))
            else:
                for count, found in _in_processes(temporary, shape, jobs):
                    problems.update(found)
                    bar.advance(count, samples=count)
        if len(problems) == len(refs):
            return problems
        if problems:
            good = [position for position in range(len(refs)) if position not in problems]
            path = path.parent / _cache_name([refs[position] for position in good], shape[1], shape[2])
            _keep_rows(temporary, shape, good)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return problems


def _reserve(path: Path, size: int) -> None:
    """Makes a file of zeros whose blocks exist: a disk that fills up under a memory map would end the process."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _in_processes(
    path: Path, shape: tuple[int, int, int, int], jobs: Sequence[tuple[int, list[ImageRef]]]
) -> Iterator[tuple[int, dict[int, str]]]:
    """Prepares the rows of each job in one of several processes; gives the number of rows and the unreadable ones."""
    pool = ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 16), mp_context=get_context("spawn"))
    try:
        with _children_ignore_ctrl_c():
            futures = {pool.submit(prepare_rows, path, shape, *job): len(job[1]) for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _children_ignore_ctrl_c() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which reaches every process of a terminal: only this one answers."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def prepare_rows(path: Path, shape: tuple[int, int, int, int], start: int, refs: Sequence[ImageRef]) -> dict[int, str]:
    """Prepares some rows of a cache file, in whatever process; returns the unreadable ones with the reasons."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    problems = {}
    for row, ref in enumerate(refs, start):
        try:
            pixels[row] = prepare_image(ref, shape[2])
        except (ImageFileError, DataError, OSError, ValueError) as error:
            problems[row] = str(error)
    pixels.flush()
    return problems


def prepare_image(ref: ImageRef, size: int) -> np.ndarray:
    """The pixels of one image, `(C, size, size)` uint8.

    Raises:
        ImageFileError: the file is not a readable image.
        DataError: the file is not the one that was hashed.
        OSError: the file cannot be read.
        ValueError: the URL does not fit into a QR code.
    """
    if ref.url is not None:
        return render_qr(ref.url, size)[None]
    assert ref.path is not None
    data = Path(ref.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise DataError("its content has changed since it was hashed")
    return decode_image(data, Path(ref.path).suffix, size).transpose(2, 0, 1)


def _keep_rows(path: Path, shape: tuple[int, int, int, int], rows: Sequence[int]) -> None:
    """Moves the given rows to the front of the file and cuts off the rest."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    for target, source in enumerate(rows):
        if target != source:
            pixels[target] = pixels[source]
    pixels.flush()
    del pixels
    os.truncate(path, len(rows) * int(np.prod(shape[1:])))
