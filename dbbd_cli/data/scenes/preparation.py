"""Prepare scenes ahead of training in parallel processes, each scene in one of them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes.cache import Room, SceneRef, SceneSettings, prepared_scene, scene_in_cache
from dbbd_cli.data.scenes.manifest import check_parts
from dbbd_cli.data.scenes.reader import scene_digest

PREPARED, CACHED = "prepared", "cached"
"""What became of a scene; anything else is why it cannot be used."""


def prepare_in_processes(
    sources: Sequence[Path | Room],
    required: Mapping[str, str],
    settings: SceneSettings,
    cache_dir: Path,
    num_workers: int,
) -> Iterator[str]:
    """Prepare the scenes that the cache does not contain.

    Args:
        sources: files, folders or rooms.
        required: parts that a scene must have; see `check_parts`.
        settings: how to prepare them.
        cache_dir: folder of the cache.
        num_workers: number of processes.

    Yields:
        `PREPARED`, `CACHED` or the error of each scene, as they are finished.

    Raises:
        DiskError: the cache cannot be written.
    """
    lost = []
    with _pool(num_workers) as pool:
        futures = {pool.submit(_prepare, each, required, settings, cache_dir): each for each in sources}
        try:
            for done in as_completed(futures):
                try:
                    yield done.result()
                except BrokenProcessPool:
                    lost.append(futures[done])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    # A process died, and nobody knows of which scene: each of the others gets a process of its own.
    for source in lost:
        with _pool(1) as pool:
            future: Future[str] = pool.submit(_prepare, source, required, settings, cache_dir)
            try:
                yield future.result()
            except BrokenProcessPool:
                name = SceneRef(source, "").name
                yield f"{name}: the process that prepared it was killed, probably for lack of memory"


def _pool(num_workers: int) -> ProcessPoolExecutor:
    # Spawned: a fork of a process with threads may hang.
    return ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), _ignore_interrupts)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process, which waits for the scenes that are being prepared."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _prepare(source: Path | Room, required: Mapping[str, str], settings: SceneSettings, cache_dir: Path) -> str:
    try:
        ref = SceneRef(source, source.sha256 if isinstance(source, Room) else scene_digest(source))
        found = scene_in_cache(ref, settings, cache_dir)
        check_parts(found or prepared_scene(ref, settings, cache_dir), required, ref)
    except DataError as error:
        return error.message
    except MemoryError:
        return f"{SceneRef(source, '').name}: does not fit into free memory"
    return CACHED if found else PREPARED
