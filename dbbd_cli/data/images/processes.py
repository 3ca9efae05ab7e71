"""Prepare the rows of an image cache in supervised worker processes.

An untrusted image may crash its decoder, keep it busy forever, or fill the memory. Files are therefore decoded only in
other processes, each with a memory limit (`MEMORY_BYTES`) and a deadline for each image (`IMAGE_SECONDS`). A process
that dies or misses the deadline is replaced, and its job repeated. If the new process is lost too while it works on an
image, that image is reported as bad, and the rest of the job continues.

These are plain processes, not those of `multiprocessing`, which would run the caller's script a second time if it has
no `if __name__ == "__main__"`. A job is a line of JSON on a worker's standard input; its reply is a line on the
standard output, after lines that report the current row. JSON in ASCII preserves file names that are not Unicode.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.files import read_file
from dbbd_cli.core.signals import exit_reason
from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.images.formats import ImageFileError, MissingReaderError
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.refs import MAX_FILE_BYTES, ImageRef, url_sha256
from dbbd_cli.data.running_time import RunningTime

MAX_WORKERS = 16
MEMORY_BYTES = 1 << 30
"""Memory that a worker may allocate, on Linux. The most that an image needs is 0.65 GB: 256 MB of file, 400 decoded."""
IMAGE_SECONDS = 60.0
"""Deadline for an image. The largest that are read take a second or two."""
_START_SECONDS = 60.0
"""Deadline for a process to start working."""
_REPORT_SECONDS = 1.0
"""How often a worker reports its current row. In a repeated job it reports each row."""

# With the parent's search path: unlike `-m`, this imports nothing from the current folder that the parent would not.
_START = "import sys; sys.path[:] = sys.argv[1:]; from dbbd_cli.data.images.processes import main; main()"

Shape = tuple[int, int, int, int]
"""Of a cache: N images, C channels, height, width."""
_Rows = Sequence[tuple[int, ImageRef]]
"""Images to prepare, each with its row in the cache file."""


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
        if url_sha256(ref.url) != ref.sha256:
            raise DataError("the SHA-256 given for it is that of another URL")
        return render_qr(ref.url, size)[None]
    assert ref.path is not None
    data = read_file(Path(ref.path), MAX_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise DataError("its content has changed since it was hashed")
    return decode_image(data, Path(ref.path).suffix, size).transpose(2, 0, 1)


def prepare_rows(
    path: Path, shape: Shape, rows: Iterable[tuple[int, ImageRef]], begin: Callable[[int], None] | None = None
) -> dict[int, Problem]:
    """Prepare rows of a cache file in this process.

    Args:
        path: the cache file.
        shape: its shape.
        rows: the rows, each with its image.
        begin: called with each row before it is prepared.

    Returns:
        The rows that could not be prepared.
    """
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    problems = {}
    for row, ref in rows:
        if begin is not None:
            begin(row)
        try:
            pixels[row] = prepare_image(ref, shape[2])
        except DataError as error:
            problems[row] = Problem(str(error), lasting=False)
        except OSError as error:
            problems[row] = Problem(f"cannot be read: {error.strerror or error}", lasting=False)
        except ValueError as error:  # includes ImageFileError
            short_of_memory = isinstance(error, ImageFileError) and isinstance(error.__cause__, MemoryError)
            problems[row] = Problem(str(error), lasting=not (short_of_memory or isinstance(error, MissingReaderError)))
    pixels.flush()
    return problems


def prepare_in_workers(
    path: Path, shape: Shape, jobs: Sequence[tuple[int, Sequence[ImageRef]]]
) -> Generator[tuple[int, dict[int, Problem]], None, None]:
    """Prepare the rows of jobs, each a first row and its images, in one or more worker processes.

    Yields:
        For each job, in order of completion, the number of its rows and those that could not be prepared.

    Raises:
        DataError: a process cannot be started, or dies before it starts working.
    """
    waiting: SimpleQueue[tuple[int, Sequence[ImageRef]]] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: SimpleQueue[tuple[int, dict[int, Problem]] | Exception] = SimpleQueue()

    def feed(worker: _Worker) -> None:
        try:
            while True:
                start, refs = waiting.get_nowait()
                done.put((len(refs), _prepare_job(worker, path, shape, list(enumerate(refs, start)))))
        except (Empty, _ClosedError):
            return
        except Exception as error:  # raised again in the thread that consumes the results
            done.put(error)

    workers: list[_Worker] = []
    threads: list[threading.Thread] = []
    try:
        for number in range(1, min(os.cpu_count() or 1, MAX_WORKERS, len(jobs)) + 1):
            workers.append(_Worker(number))
            threads.append(threading.Thread(target=feed, args=(workers[-1],), daemon=True))
            threads[-1].start()
        for _ in jobs:
            result = _next(done)
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


def _prepare_job(worker: _Worker, path: Path, shape: Shape, rows: _Rows) -> dict[int, Problem]:
    """Do what `prepare_rows` does in a process that is replaced when it is lost."""
    problems: dict[int, Problem] = {}
    again = False
    while rows:
        try:
            return problems | worker.prepare(path, shape, rows, report_each=again)
        except _LostError as lost:
            if again and lost.row is None:
                raise worker.start_error(lost) from None
            if again and lost.row is not None:
                problems[lost.row] = Problem(f"the process that prepared it {lost.reason}", lasting=False)
                rows = [(row, ref) for row, ref in rows if row != lost.row]
            worker.restart()
            again = True
    return problems


def _next(queue: SimpleQueue[tuple[int, dict[int, Problem]] | Exception]) -> tuple[int, dict[int, Problem]] | Exception:
    while True:
        try:
            return queue.get(timeout=0.5)  # Windows delivers Ctrl-C only between waits
        except Empty:
            continue


class _LostError(Exception):
    """A process has died or hangs.

    Args:
        reason: what happened to it.
        row: its current row; None if it had not started working.
        output: the last line that it printed, if any.
    """

    def __init__(self, reason: str, row: int | None, output: Sequence[str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
        self.output = list(output)


class _ClosedError(Exception):
    """The images are no longer needed."""


class _Worker:
    """A worker process as the main process sees it; it is replaced when it is lost."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._closed = False
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
        self._works = False
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

    def prepare(self, path: Path, shape: Shape, rows: _Rows, *, report_each: bool) -> dict[int, Problem]:
        """Do what `prepare_rows` does, in the process.

        Raises:
            _LostError: the process died or hangs.
        """
        images = [[row, ref.sha256, ref.path, ref.url] for row, ref in rows]
        job = json.dumps([str(path), shape, 0.0 if report_each else _REPORT_SECONDS, images])
        # In a thread: writing to the pipe of a suspended process blocks after a few images.
        threading.Thread(target=self._send, args=(self.process, job.encode("ascii") + b"\n"), daemon=True).start()
        row: int | None = None
        limit = RunningTime(IMAGE_SECONDS if self._works else _START_SECONDS)
        while True:
            try:
                reply = self._replies.get(timeout=limit.tick)
            except Empty:
                if limit.over():
                    raise self._lost(row, f"did not respond for {limit.limit:g} s") from None
                continue
            if not reply.endswith(b"\n"):
                raise self._lost(row, "")
            content = json.loads(reply)
            if isinstance(content, dict):
                self._log.seek(0)
                self._log.truncate()  # the warnings of a million damaged images must not fill the disk
                return {int(row): Problem(*problem) for row, problem in content.items()}
            row, limit, self._works = content, RunningTime(IMAGE_SECONDS), True

    @staticmethod
    def _send(process: subprocess.Popen[bytes], job: bytes) -> None:
        assert process.stdin is not None
        with suppress(OSError, ValueError):  # the process has died, which ends its replies, or was closed here
            process.stdin.write(job)
            process.stdin.flush()

    def _lost(self, row: int | None, reason: str) -> _LostError:
        self.process.kill()
        status = exit_reason(self.process.wait())
        self._log.seek(0)
        output = self._log.read().decode("utf-8", "replace").split("\n")
        lines = [line.strip()[:300] for line in output if line.strip()][-1:]
        return _LostError(reason or f"ended unexpectedly ({status})", row, lines)

    def start_error(self, lost: _LostError) -> DataError:
        """The error about a process that was lost before it started working."""
        return DataError(
            f"process {self.number} for preparing images {lost.reason} before it started",
            hint="try again; the memory or the disk may be full, or one of these images crashes its decoder",
            details=lost.output,
        )

    def restart(self) -> None:
        """Start another process in place of the one that was lost.

        Raises:
            DataError: it cannot be started.
            _ClosedError: it is no longer needed.
        """
        with self._lock:
            if self._closed:
                raise _ClosedError
            self.close()
            self._start()

    def kill(self) -> None:
        """End the process for good, whatever its state."""
        with self._lock:
            self._closed = True
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
    replies = os.fdopen(os.dup(1), "wb")
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
            _answer(json.loads(jobs.get()), replies)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an ordinary exit would wait for the thread that reads


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


def _answer(job: list[Any], replies: BinaryIO) -> None:
    """Do a job; report the current row at the start and at intervals, and the bad rows at the end."""
    path, shape, pause, images = job
    reported = float("-inf")

    def begin(row: int) -> None:
        nonlocal reported
        if time.monotonic() >= reported + pause:
            _reply(row, replies)
            reported = time.monotonic()

    rows = [(row, ImageRef(*ref)) for row, *ref in images]
    _reply(prepare_rows(Path(path), tuple(shape), rows, begin), replies)


def _reply(content: object, replies: BinaryIO) -> None:
    replies.write(json.dumps(content).encode("ascii") + b"\n")
    replies.flush()
