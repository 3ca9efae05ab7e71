"""Prepare the rows of an image cache, read the codes of pictures, or index shards, in supervised worker processes.

An untrusted image may crash its decoder, keep it busy forever, or fill the memory. Files are therefore decoded only in
other processes, each with a memory limit (`MEMORY_BYTES`) and a deadline for each image (`IMAGE_SECONDS`). A process
that dies or misses the deadline is replaced. If the new one is lost at the same image, that image is reported as bad,
and the rest of the job continues.

These are plain processes, not those of `multiprocessing`, which would run the caller's script a second time if it has
no `if __name__ == "__main__"`. A job is a line of JSON on a worker's standard input. The worker replies with a line
when it begins, and one for each image. JSON in ASCII preserves file names that are not Unicode.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.signals import exit_reason
from dbbd_cli.data.images.decode import ImageFileError, decode_image
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.qr_reader import Picture, read_picture
from dbbd_cli.data.images.refs import ImageRef, Part, read_image_file
from dbbd_cli.data.images.shard_index import Keys, ShardError, write_index
from dbbd_cli.data.problems import why
from dbbd_cli.data.running_time import RunningTime

MAX_WORKERS = 16
MEMORY_BYTES = 1 << 30
"""Memory that a worker may allocate, on Linux. An image needs at most 0.65 GB: 256 MB of file, 400 MB to decode."""
IMAGE_SECONDS = 60.0
"""Deadline for an image. The largest ones within the limits take a second or two."""
SHARD_SECONDS = 3600.0
"""Deadline for a tar shard, which may be large and on a slow disk."""
_START_SECONDS = 60.0
"""Deadline for a process to begin a job."""

_NOT_IN_SHARD = "it is no longer in its shard, or has changed since the shard was indexed"

# With the parent's search path: unlike `-m`, this imports nothing from the current folder that the parent would not.
_START = "import sys; sys.path[:] = sys.argv[1:]; from dbbd_cli.data.images.processes import main; main()"

Shape = tuple[int, int, int, int]
"""Of a cache: N images, C channels, height, width."""
_Rows: TypeAlias = Sequence[tuple[int, list[Any]]]
"""Of a job: the number of each image, and the fields of its `ImageRef` or `Picture`."""
_Item = TypeVar("_Item")


class Problem(NamedTuple):
    """Why an image cannot be prepared."""

    reason: str
    lasting: bool
    """The content itself is bad: another attempt would give the same result."""


def prepare_image(ref: ImageRef, size: int) -> np.ndarray:
    """Decode or render one image into pixels `(C, size, size)`, uint8.

    Raises:
        ImageFileError: the file is not a readable image.
        DataError: the content is not what was hashed.
        OSError: the file cannot be read.
        ValueError: the URL does not fit into a QR code.
    """
    # Pixels are stored under the hash: those of other content would be used in its place from then on.
    if ref.url is not None:
        from dbbd_cli.data.urls.cleaning import url_sha256  # with the settings, which processes for files do not need

        if url_sha256(ref.url) != ref.sha256:
            raise DataError("the SHA-256 given for it is that of another URL")
        return render_qr(ref.url, size)[None]
    assert ref.path is not None
    data = read_image_file(ref.path, ref.part)
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        what = "its content has changed since it was hashed" if ref.part is None else _NOT_IN_SHARD
        raise DataError(what)
    return decode_image(data, size).transpose(2, 0, 1)


class RowWriter:
    """Writes the rows of a cache file; not through a memory map, whose pages would count as memory of the process.

    Args:
        path: the file; None: rows are dropped.
        shape: of the cache.
    """

    def __init__(self, path: Path | str | None, shape: Shape) -> None:
        self._file = None if path is None else open(path, "r+b", buffering=0)  # noqa: PTH123, SIM115
        self.shape = shape

    def __setitem__(self, row: int, pixels: np.ndarray) -> None:
        if self._file is not None:
            self._file.seek(row * pixels.nbytes)
            self._file.write(pixels.tobytes())


def prepare_rows(pixels: RowWriter | np.ndarray, rows: Iterable[tuple[int, ImageRef]]) -> Iterator[Problem | None]:
    """Prepare rows of a cache file, `pixels`, in this process.

    Yields:
        For each row, its problem, or None if it has been prepared.
    """
    for row, ref in rows:
        problem = None
        try:
            pixels[row] = prepare_image(ref, pixels.shape[2])
        except DataError as error:
            problem = Problem(str(error), lasting=False)
        except OSError as error:
            problem = Problem(f"cannot be read: {error.strerror or error}", lasting=False)
        except ValueError as error:  # includes ImageFileError
            short_of_memory = isinstance(error, ImageFileError) and isinstance(error.__cause__, MemoryError)
            problem = Problem(str(error), lasting=not short_of_memory)
        yield problem


def prepare_in_workers(
    path: Path | None, shape: Shape, jobs: Iterable[tuple[int, Sequence[ImageRef]]]
) -> Generator[tuple[int, dict[int, Problem]], None, None]:
    """Prepare the rows of jobs, each a first row and its images, in one or more worker processes.

    Args:
        path: the cache file; None: the images are only checked.
        shape: of the cache.
        jobs: the first row and the images of each.

    Yields:
        For each job, in order of completion, the number of its rows and those that could not be prepared.

    Raises:
        DataError: a process cannot be started, or dies before it begins to work.
    """
    work = ["prepare", None if path is None else str(path), shape]
    with closing(_in_workers(work, jobs, lambda ref: [ref.sha256, ref.path, ref.url, ref.part])) as results:
        for replies, lost in results:
            problems = {row: Problem(*reply) for row, reply in replies.items() if reply is not None}
            problems |= {row: Problem(reason, lasting=False) for row, reason in lost.items()}
            yield len(replies) + len(lost), problems


def read_in_workers(
    jobs: Sequence[tuple[int, Sequence[Picture]]],
) -> Generator[dict[int, tuple[list[str], str]], None, None]:
    """Read the codes of pictures in one or more worker processes.

    Args:
        jobs: each a number for its first picture, and its pictures.

    Yields:
        For each job, in order of completion, number of a picture to what `read_picture` returned for it.

    Raises:
        DataError: a process cannot be started, or dies before it begins to work.
    """
    with closing(_in_workers(["read"], jobs, list)) as results:
        for replies, lost in results:
            yield {row: (texts, problem) for row, (texts, problem) in replies.items()} | {
                row: ([], reason) for row, reason in lost.items()
            }


def index_in_workers(shards: Sequence[tuple[Path, Path]], keys: Keys) -> Generator[tuple[int, str], None, None]:
    """Index tar shards in one or more worker processes, each shard in one of them.

    Args:
        shards: the index in the cache and the tar file of each.
        keys: where `.json` members have class and split.

    Yields:
        Position of each shard, in order of completion, and why it cannot be read; empty if it has been indexed.

    Raises:
        DataError: a process cannot be started, or dies before it begins to work.
        DiskError: an index cannot be written.
    """
    jobs = [(row, [shard]) for row, shard in enumerate(shards)]
    with closing(_in_workers(["index", keys], jobs, lambda paths: list(map(str, paths)), SHARD_SECONDS)) as results:
        for replies, lost in results:
            for row, (problem, *disk_error) in replies.items():
                if disk_error:
                    raise DiskError(problem, hint=disk_error[0])
                yield row, problem
            yield from lost.items()


def _in_workers(
    work: list[Any],
    jobs: Iterable[tuple[int, Sequence[_Item]]],
    plain: Callable[[_Item], list[Any]],
    seconds: float | None = None,
) -> Generator[tuple[dict[int, Any], dict[int, str]], None, None]:
    """Run jobs; yield for each, in order of completion, the reply for each row, and why rows were lost.

    Few jobs wait at a time, and the items of one are made plain when it begins: there may be a million.
    """
    workers: list[_Worker] = []
    idle: SimpleQueue[_Worker] = SimpleQueue()
    left = iter(jobs)
    count = min(os.cpu_count() or 1, MAX_WORKERS)
    first = list(islice(left, 2 * count))
    count = min(count, len(first))

    def run(job: tuple[int, Sequence[_Item]]) -> tuple[dict[int, Any], dict[int, str]]:
        start, items = job
        worker = idle.get()
        try:
            rows = [(row, plain(item)) for row, item in enumerate(items, start)]
            return worker.run(work, rows, seconds or IMAGE_SECONDS)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    try:
        for _ in range(count):
            workers.append(_Worker())
            idle.put(workers[-1])
        running = {pool.submit(run, job) for job in first}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(run, job) for job in islice(left, len(done))}
            for finished in done:
                yield finished.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        pool.shutdown()
        for worker in workers:
            worker.close()


class _LostError(Exception):
    """A process has died or hangs; the message, which completes "the process …", says which."""


class _Worker:
    """A worker process as the main process sees it; it is replaced when it is lost."""

    def __init__(self) -> None:
        self._killed = False
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        # What decoders print must not reach the terminal, but the last line may say why the process died.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-c", _START),
                    *(*map(str, sys.path), str(Path(__file__).parents[3])),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                # Ctrl-C reaches every process of a terminal, but only the parent should respond to it.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            self._log.close()
            raise DataError(
                f"a process for preparing images cannot be started: {error.strerror or error}",
                hint="the memory, or the limit on processes or open files (ulimit -u, ulimit -n), may be exhausted; "
                f"the Python in use is {sys.executable!r}",
            ) from error
        self._replies: SimpleQueue[bytes] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process, self._replies), daemon=True)
        self._reader.start()

    @staticmethod
    def _read(process: subprocess.Popen[bytes], replies: SimpleQueue[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                replies.put(line)
        replies.put(b"")

    def run(self, work: list[Any], rows: _Rows, seconds: float) -> tuple[dict[int, Any], dict[int, str]]:
        """Run a job in the process.

        Args:
            work: what to do with the rows, see `_replies`.
            rows: number and content of each row.
            seconds: deadline for each row.

        Returns:
            The reply for each row, and for rows at which the process was lost, the reason.

        Raises:
            DataError: the process dies or hangs before it begins.
        """
        replies: dict[int, Any] = {}
        lost: dict[int, str] = {}
        waiting = deque(rows)
        lost_at: int | None = -1  # row at which the last process was lost; None: before it began
        while waiting:
            current = None
            try:
                self._send([work, list(waiting)])
                self._reply(_START_SECONDS)
                while waiting:
                    current = waiting[0][0]
                    replies[current] = self._reply(seconds)
                    waiting.popleft()
            except _LostError as error:
                if current == lost_at and current is None:
                    raise self._start_error(error) from None
                if current == lost_at and current is not None:
                    lost[current] = f"the process that prepared it {error}"
                    waiting.popleft()
                lost_at = current
                self._restart()
        self._log.seek(0)
        self._log.truncate()  # the warnings of a million damaged images must not fill the disk
        return replies, lost

    def _send(self, job: list[Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has died, which ends its replies
            self.process.stdin.write(json.dumps(job).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def _reply(self, seconds: float) -> Any:
        limit = RunningTime(seconds)
        while not limit.over():
            try:
                reply = self._replies.get(timeout=limit.tick)
            except Empty:
                continue
            if reply.endswith(b"\n"):
                return json.loads(reply)
            raise _LostError(f"ended unexpectedly ({exit_reason(self.process.wait())})")
        raise _LostError(f"did not respond for {seconds:g} s")

    def _start_error(self, error: _LostError) -> DataError:
        self._log.seek(0)
        output = self._log.read().decode("utf-8", "replace").split("\n")
        return DataError(
            f"a process for preparing images {error} before it began",
            hint="try again; the memory or the disk may be full",
            details=[line.strip()[:300] for line in output if line.strip()][-1:],
        )

    def _restart(self) -> None:
        with self._lock:
            if self._killed:
                raise DataError("the images are no longer needed")
            self.process.kill()
            self.close()
            self._start()

    def kill(self) -> None:
        """End the process for good, whatever its state."""
        with self._lock:
            self._killed = True
            self.process.kill()

    def close(self) -> None:
        """Free the resources of the process after it has been killed."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self._reader.join()
        self._log.close()


def main() -> None:
    """Run a worker process: reply to jobs until the standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a decoder prints is not a reply
    jobs: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            jobs.put(line)
        os._exit(0)  # the parent is gone, so nobody waits for the current job

    threading.Thread(target=read, daemon=True).start()
    _limit_memory()
    try:
        while True:
            for reply in chain([None], _replies(*json.loads(jobs.get()))):
                print(json.dumps(reply), file=replies, flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an ordinary exit would wait for the thread that reads


def _replies(work: list[Any], rows: _Rows) -> Iterator[Any]:
    """The reply for each row of a job, as `_Worker.run` sends it.

    Args:
        work: `prepare`, path (None: write nothing) and shape of the cache file; `read` for the codes of pictures; or
            `index` and the `Keys` of tar shards.
        rows: number and content of each row.
    """
    what, *given = work
    if what == "prepare":
        path, shape = given
        pixels = RowWriter(path, tuple(shape))
        refs = ((row, ImageRef(sha256, file, url, part and Part(*part))) for row, (sha256, file, url, part) in rows)
        return prepare_rows(pixels, refs)
    if what == "read":
        return (read_picture(Picture(*content)) for _, content in rows)
    return (_index(Path(index), Path(shard), Keys(*given[0])) for _, (index, shard) in rows)


def _index(index: Path, shard: Path, keys: Keys) -> list[str]:
    """Index a shard; return why it cannot be read, empty if it has been indexed, and the hint of a `DiskError`."""
    try:
        write_index(index, shard, keys)
    except ShardError as error:
        return [str(error)]
    except DiskError as error:
        return [error.message, error.hint]
    except OSError as error:
        return [f"cannot be read: {why(error)}"]
    return [""]


def _limit_memory() -> None:
    """Let this process allocate no more than `MEMORY_BYTES` from now on; only Linux enforces such a limit."""
    try:
        data_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    except OSError:
        return
    import resource

    limit = data_pages * resource.getpagesize() + MEMORY_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
