"""Starts and supervises processes that prepare the rows of an image cache; `image_worker` is what they run.

They are plain processes, not those of `multiprocessing`, which would run the caller's script a second time if it has
no `if __name__ == "__main__"`.

A process that dies, or does not respond for `IMAGE_SECONDS`, is replaced, and its job repeated. If the new process is
lost too while it works on an image, that image is reported as bad, and the rest of the job continues.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.signals import exit_reason
from dbbd_cli.data.images.refs import ImageRef
from dbbd_cli.data.images.worker import Problem, Shape
from dbbd_cli.data.running_time import RunningTime

MAX_WORKERS = 16
IMAGE_SECONDS = 60.0
"""Time limit for an image: the largest that are read take a second or two."""
_START_SECONDS = 60.0
"""Time limit for a process to start working."""
_REPORT_SECONDS = 1.0
"""How often a process reports its current row; when its job is repeated, it reports each row."""

# The search path is the parent's, as it is: unlike `-m`, this finds no module in the current folder that the parent
# would not have found there.
_START = "import sys; sys.path[:] = sys.argv[1:]; from dbbd_cli.data.images.worker import main; main()"
_HINT = "try again; the memory or the disk may be full, or one of these images crashes its decoder"

_Rows = Sequence[tuple[int, ImageRef]]
"""Images to prepare, each with its row in the cache file."""


def prepare_in_workers(
    path: Path, shape: Shape, jobs: Sequence[tuple[int, Sequence[ImageRef]]]
) -> Generator[tuple[int, dict[int, Problem]], None, None]:
    """Prepares the rows of each job, its first row and its images, in one or more processes.

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
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


def _prepare_job(worker: _Worker, path: Path, shape: Shape, rows: _Rows) -> dict[int, Problem]:
    """Does what `prepare_rows` does, in a process that is replaced when it dies or hangs; see above."""
    problems: dict[int, Problem] = {}
    again = False
    while rows:
        try:
            return problems | worker.prepare(path, shape, rows, report_each=again)
        except _LostError as lost:
            if again and lost.row is None:
                raise worker.useless(lost) from None
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
        said: the last lines that it printed.
    """

    def __init__(self, reason: str, row: int | None, said: Sequence[str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
        self.said = list(said)


class _ClosedError(Exception):
    """The images are no longer needed."""


class _Worker:
    """A process that prepares rows, as the main process sees it; it is replaced when it is lost."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._closed = False
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        # What decoders print must not reach the terminal, but the last of it may say why the process died.
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
                # Ctrl-C reaches every process of a terminal, where only the parent shall answer it.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            self._log.close()
            raise DataError(
                f"a process for preparing images cannot be started: {error.strerror or error}",
                hint="the memory, or the limit on processes or open files (ulimit -u, ulimit -n), may be used up; "
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
        """Does what `prepare_rows` does, in the process.

        Raises:
            _LostError: the process died or hangs.
        """
        images = [[row, ref.sha256, ref.path, ref.url] for row, ref in rows]
        job = json.dumps([str(path), shape, 0.0 if report_each else _REPORT_SECONDS, images])
        # In a thread: writing to the pipe blocks after a few images if the process is suspended.
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
                self._log.truncate()  # a million damaged pictures must not fill the disk with complaints
                return {int(row): Problem(*problem) for row, problem in content.items()}
            row, limit, self._works = content, RunningTime(IMAGE_SECONDS), True

    @staticmethod
    def _send(process: subprocess.Popen[bytes], job: bytes) -> None:
        assert process.stdin is not None
        with suppress(OSError, ValueError):  # it has died, which ends its replies, or it was closed here
            process.stdin.write(job)
            process.stdin.flush()

    def _lost(self, row: int | None, reason: str) -> _LostError:
        self.process.kill()
        status = exit_reason(self.process.wait())
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").split("\n")
        lines = [line.strip()[:300] for line in said if line.strip()][-1:]
        return _LostError(reason or f"ended unexpectedly ({status})", row, lines)

    def useless(self, lost: _LostError) -> DataError:
        """The error about a process that was lost before it started working."""
        return DataError(
            f"process {self.number} for preparing images {lost.reason} before it started",
            hint=_HINT,
            details=lost.said,
        )

    def restart(self) -> None:
        """Starts another process in place of the one that was lost.

        Raises:
            DataError: it cannot be started.
            _ClosedError: it is no longer needed.
        """
        with self._lock:
            if self._closed:
                raise _ClosedError
            self._free()
            self._start()

    def kill(self) -> None:
        """Ends the process, whatever its state; it is not replaced."""
        with self._lock:
            self._closed = True
            self.process.kill()

    def close(self) -> None:
        """Frees the resources of the process after it has been killed."""
        self._free()

    def _free(self) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self._reader.join()
        self._log.close()
