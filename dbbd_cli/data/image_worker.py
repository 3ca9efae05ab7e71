"""Preparing rows of an image cache, here or in processes of their own: both ends of the pipe.

The processes are plain ones, not those of `multiprocessing`, which would run the caller's script a second time where
it has no `if __name__ == "__main__"`. A job is a line of JSON on their standard input, its reply a line on their
standard output. JSON in ASCII keeps file names that are no valid Unicode.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Generator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from dbbd_cli.data.image_file import ImageFileError, MissingReaderError, decode_image
from dbbd_cli.data.image_refs import MAX_FILE_BYTES, ImageRef, url_sha256
from dbbd_cli.data.qr_code import render_qr
from dbbd_cli.errors import DataError
from dbbd_cli.files import read_file

Shape = tuple[int, int, int, int]
"""Of a cache: N images, C channels, height, width."""

MAX_WORKERS = 16

# The search path is the parent's, as it is: unlike `-m`, this finds no module in the current folder that the parent
# would not have found there.
_START = "import sys; sys.path[:] = sys.argv[1:]; from dbbd_cli.data.image_worker import main; main()"
_HINT = "try again; the memory or the disk may be full, or one of these images crashes its decoder"


class Problem(NamedTuple):
    """Why an image cannot be prepared."""

    reason: str
    lasting: bool
    """The content itself is bad: trying again gives the same."""


def prepare_image(ref: ImageRef, size: int) -> np.ndarray:
    """The pixels of one image, `(C, size, size)` uint8.

    Raises:
        ImageFileError: the file is not a readable image.
        DataError: the file or the URL is not the one that was hashed.
        OSError: the file cannot be read.
        ValueError: the URL does not fit into a QR code.
    """
    # The hash is the name that pixels are kept under: those of other content would be taken for it ever after.
    if ref.url is not None:
        if url_sha256(ref.url) != ref.sha256:
            raise DataError("the SHA-256 given for it is that of another URL")
        return render_qr(ref.url, size)[None]
    assert ref.path is not None
    data = read_file(Path(ref.path), MAX_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise DataError("its content has changed since it was hashed")
    return decode_image(data, Path(ref.path).suffix, size).transpose(2, 0, 1)


def prepare_rows(path: Path, shape: Shape, start: int, refs: Sequence[ImageRef]) -> dict[int, Problem]:
    """Prepares the rows of a cache file from `start` on; returns those that could not be, with the reasons."""
    pixels = np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    problems = {}
    for row, ref in enumerate(refs, start):
        try:
            pixels[row] = prepare_image(ref, shape[2])
        except DataError as error:
            problems[row] = Problem(str(error), lasting=False)
        except OSError as error:
            problems[row] = Problem(f"cannot be read: {error.strerror or error}", lasting=False)
        except ValueError as error:  # ImageFileError is one
            short_of_memory = isinstance(error, ImageFileError) and isinstance(error.__cause__, MemoryError)
            problems[row] = Problem(str(error), lasting=not (short_of_memory or isinstance(error, MissingReaderError)))
    pixels.flush()
    return problems


def prepare_in_workers(
    path: Path, shape: Shape, jobs: Sequence[tuple[int, Sequence[ImageRef]]]
) -> Generator[tuple[int, dict[int, Problem]], None, None]:
    """Prepares the rows of each job, a start and its images, in one of several processes.

    Yields:
        For each job, in the order of their ends, the number of its rows and those that could not be prepared.

    Raises:
        DataError: a process cannot be started, or died.
    """
    waiting: SimpleQueue[tuple[int, Sequence[ImageRef]]] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: SimpleQueue[tuple[int, dict[int, Problem]] | Exception] = SimpleQueue()

    def feed(worker: _Worker) -> None:
        try:
            while True:
                start, refs = waiting.get_nowait()
                done.put((len(refs), worker.prepare(path, shape, start, refs)))
        except Empty:
            return
        except Exception as error:  # raised again by the thread that asked for the rows
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
            worker.process.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


def _next(queue: SimpleQueue[tuple[int, dict[int, Problem]] | Exception]) -> tuple[int, dict[int, Problem]] | Exception:
    while True:
        try:
            return queue.get(timeout=0.5)  # Windows delivers Ctrl-C only between waits
        except Empty:
            continue


class _Worker:
    """A process that prepares rows, seen from the one that asks."""

    def __init__(self, number: int) -> None:
        self.number = number
        # What decoders print must not reach the terminal, but the last of it may say why the process died.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-c", _START),
                    *(*map(str, sys.path), str(Path(__file__).parents[2])),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                # Ctrl-C reaches every process of a terminal, where only the parent shall answer it.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            self._log.close()
            raise DataError(
                f"a process for preparing images cannot be started: {error.strerror or error}",
                hint=f"the memory or the limit of processes may be used up; the Python in use is {sys.executable!r}",
            ) from error

    def prepare(self, path: Path, shape: Shape, start: int, refs: Sequence[ImageRef]) -> dict[int, Problem]:
        """What `prepare_rows` does, in the process.

        Raises:
            DataError: the process died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = json.dumps([str(path), shape, start, [[ref.sha256, ref.path, ref.url] for ref in refs]])
        try:
            self.process.stdin.write(job.encode("ascii") + b"\n")
            self.process.stdin.flush()
            reply = self.process.stdout.readline()
        except OSError:  # a broken pipe
            reply = b""
        if not reply.endswith(b"\n"):
            raise self._death(start, refs)
        self._log.seek(0)
        self._log.truncate()  # a million damaged pictures must not fill the disk with complaints
        return {int(row): Problem(*problem) for row, problem in json.loads(reply).items()}

    def _death(self, start: int, refs: Sequence[ImageRef]) -> DataError:
        code = self.process.wait()
        try:
            status = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except ValueError:
            status = f"signal {-code}"
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").split("\n")
        rows = f"images {start + 1:,} to {start + len(refs):,} ({refs[0].name} to {refs[-1].name})"
        return DataError(
            f"process {self.number} ended unexpectedly ({status}) while it prepared {rows}",
            hint=_HINT,
            details=[line.strip()[:300] for line in said if line.strip()][-1:],
        )

    def close(self) -> None:
        """Frees what the process held, once it was killed."""
        self.process.communicate()
        self._log.close()


def main() -> None:
    """The process: replies to jobs until its standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no reply
    jobs: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            jobs.put(line)
        os._exit(0)  # the parent is gone: nobody waits for the job at hand

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            path, shape, start, refs = json.loads(jobs.get())
            problems = prepare_rows(Path(path), tuple(shape), start, [ImageRef(*ref) for ref in refs])
            replies.write(json.dumps(problems).encode("ascii") + b"\n")
            replies.flush()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an ordinary exit would wait for the thread that reads
