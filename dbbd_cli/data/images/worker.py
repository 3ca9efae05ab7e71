"""Prepares rows of an image cache, in this process or as a worker process of `image_processes`.

A job is a line of JSON on the standard input of the worker, its reply a line on the standard output, after lines that
report the current row. JSON in ASCII keeps file names that are not valid Unicode.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.files import read_file
from dbbd_cli.data.images.decode import ImageFileError, MissingReaderError, decode_image
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.refs import MAX_FILE_BYTES, ImageRef, url_sha256

Shape = tuple[int, int, int, int]
"""Of a cache: N images, C channels, height, width."""


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


def prepare_rows(
    path: Path, shape: Shape, rows: Iterable[tuple[int, ImageRef]], begin: Callable[[int], None] | None = None
) -> dict[int, Problem]:
    """Prepares rows of a cache file; returns those that could not be prepared, with the reasons.

    Args:
        path: the cache file.
        shape: its shape.
        rows: the rows, each with its image.
        begin: called with each row before it is prepared.
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
        except ValueError as error:  # ImageFileError is one
            short_of_memory = isinstance(error, ImageFileError) and isinstance(error.__cause__, MemoryError)
            problems[row] = Problem(str(error), lasting=not (short_of_memory or isinstance(error, MissingReaderError)))
    pixels.flush()
    return problems


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
            _answer(json.loads(jobs.get()), replies)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an ordinary exit would wait for the thread that reads


def _answer(job: list[Any], replies: BinaryIO) -> None:
    """Does a job; reports its current row at the start and at intervals, and the bad rows at the end."""
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
