"""Prepare scenes ahead of training in parallel processes, each scene in one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.limits import usable_processors
from dbbd_cli.core.pool import worker_pool
from dbbd_cli.data.cache import is_cache_folder, remove_leftovers
from dbbd_cli.data.scenes.cache import Room, SceneRef, SceneSettings, prepared_scene, scene_in_cache
from dbbd_cli.data.scenes.manifest import check_parts
from dbbd_cli.data.scenes.reader import scene_digest

PREPARED, CACHED = "prepared", "cached"
"""What became of a scene; anything else is why it cannot be used."""
_IN_FLIGHT = 2
"""Scenes that are handed out for each process: one is being prepared, and the next one is at hand."""


def prepare_in_processes(
    sources: Sequence[Path | Room],
    required: Mapping[str, str],
    settings: SceneSettings,
    cache_dir: Path,
    num_workers: int,
) -> Generator[str, None, None]:
    """Prepare the scenes that the cache does not contain.

    Closing the iterator, or an exception, kills the processes; scenes are in the cache completely or not at all.

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
    num_threads = max(usable_processors() // num_workers, 1)
    job = partial(_prepare, required=required, settings=settings, cache_dir=cache_dir, num_threads=num_threads)
    waiting = deque(sources)
    try:
        while waiting:
            lost: list[Path | Room] = []
            with worker_pool(num_workers) as pool:
                yield from _until_one_dies(pool, job, waiting, lost, _IN_FLIGHT * num_workers)
            # Nobody knows at which scene the process died: each one that was handed out gets a process of its own.
            for source in lost:
                with worker_pool(1) as pool:
                    yield _alone(pool, job, source)
    finally:
        if is_cache_folder(cache_dir):
            remove_leftovers(cache_dir)


def _until_one_dies(
    pool: ProcessPoolExecutor,
    job: partial[str],
    waiting: deque[Path | Room],
    lost: list[Path | Room],
    in_flight: int,
) -> Iterator[str]:
    """Take scenes from `waiting` and yield their outcomes; if a process dies, end with the others in `lost`."""
    running: dict[Future[str], Path | Room] = {}
    is_whole = True
    while running or (waiting and is_whole):
        while waiting and is_whole and len(running) < in_flight:
            try:
                running[pool.submit(job, waiting[0])] = waiting[0]
                waiting.popleft()
            except BrokenProcessPool:
                is_whole = False
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            source = running.pop(done)
            try:
                yield done.result()
            except BrokenProcessPool:
                is_whole = False
                lost.append(source)


def _alone(pool: ProcessPoolExecutor, job: partial[str], source: Path | Room) -> str:
    try:
        return pool.submit(job, source).result()
    except BrokenProcessPool:
        return f"{SceneRef(source, '').name}: the process that prepared it was killed, probably for lack of memory"


def _prepare(
    source: Path | Room, required: Mapping[str, str], settings: SceneSettings, cache_dir: Path, num_threads: int
) -> str:
    try:
        ref = SceneRef(source, source.sha256 if isinstance(source, Room) else scene_digest(source))
        found = scene_in_cache(ref, settings, cache_dir)
        check_parts(found or prepared_scene(ref, settings, cache_dir, num_threads=num_threads), required, ref)
    except DataError as error:
        return error.message
    except MemoryError:
        return f"{SceneRef(source, '').name}: does not fit into free memory"
    return CACHED if found else PREPARED
