"""Read the QR codes of untrusted pictures, in worker processes with limits on memory and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from dbbd_cli.data.images.processes import read_in_workers
from dbbd_cli.data.images.qr_reader import Picture

_PICTURES_PER_JOB = 16


class CodesRead(NamedTuple):
    """The codes of a picture."""

    texts: tuple[str, ...]
    """The different texts of all QR, Micro QR and rMQR codes in the picture, in the order they were found."""
    problem: str = ""
    """Why there are none, or why they cannot be relied on: a code whose bytes are not UTF-8, in no known encoding, is
    read as the reader's best guess. Empty if there is no problem."""


def read_codes(source: Path | bytes) -> CodesRead:
    """Read the codes of a picture, in a process of its own, which takes about half a second to start.

    Args:
        source: the picture's path, or the content of its file.

    Raises:
        DataError: the process cannot be started.
    """
    if isinstance(source, Path):
        [(_, found)] = read_all_codes([Picture(str(source))])
        return found
    with TemporaryDirectory(prefix="dbbd-") as folder:
        path = Path(folder) / "picture"
        path.write_bytes(source)
        return read_codes(path)


def read_all_codes(pictures: Sequence[Picture]) -> Iterator[tuple[int, CodesRead]]:
    """Read the codes of many pictures in parallel.

    Yields:
        Position and codes of each picture, in order of completion.

    Raises:
        DataError: worker processes cannot be started.
    """
    starts = range(0, len(pictures), _PICTURES_PER_JOB)
    jobs = [(start, pictures[start : start + _PICTURES_PER_JOB]) for start in starts]
    # An error or Ctrl-C must end the processes immediately, not when the generator is garbage-collected.
    with closing(read_in_workers(jobs)) as results:
        for found in results:
            for position, (texts, problem) in found.items():
                yield position, CodesRead(tuple(texts), problem)
