"""Readers with planted defects, to check that the fuzzer can find any."""

# ruff: noqa: SIM102 - each condition is a separate branch

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from reader import Reader, require

from dbbd_cli.core.errors import DataError


def raises(data: bytes, _: Path) -> None:
    # Chance alone would need four billion cases: inputs with another correct byte have to be kept.
    if data[:1] == b"B" and len(data) > 4:
        if data[1] == 0x75:
            if data[2] == 0x67:
                if data[3] == 0x21:
                    {}["planted"]


def _is_changed(data: bytes) -> bool:
    """Return whether the fourth byte differs from that of the seed."""
    return len(data) > 3 and data[3] != 0x41


def raises_at_once(data: bytes, _: Path) -> None:
    if _is_changed(data):
        {}["planted"]


def breaks_its_promise(data: bytes, _: Path) -> None:
    require(not _is_changed(data), "planted")


def says_two_lines(data: bytes, _: Path) -> None:
    if _is_changed(data):
        raise DataError("one\ntwo")


def is_slow(data: bytes, _: Path) -> None:
    started = time.process_time()
    while _is_changed(data) and time.process_time() < started + 2.5:
        pass


def fills_the_memory(data: bytes, _: Path) -> None:
    if _is_changed(data):
        bytes(2**29).replace(b"\0", b"\1", 1)


def runs_out_of_memory(data: bytes, _: Path) -> None:
    if _is_changed(data):
        try:
            bytes(10**12)
        except MemoryError as error:
            raise DataError("well reported") from error


def crashes(data: bytes, _: Path) -> None:
    if _is_changed(data):
        ctypes.string_at(1)


FINDINGS = {
    "raises": ("KeyError at planted_readers.py", 200_000),
    "raises_at_once": ("KeyError at planted_readers.py", 5_000),
    "breaks_its_promise": ("BrokenPromiseError", 5_000),
    "says_two_lines": ("not printable", 5_000),
    "is_slow": ("seconds", 5_000),
    "fills_the_memory": ("MB", 5_000),
    "runs_out_of_memory": ("it ran out of memory", 5_000),
    "crashes": ("ended the process", 5_000),
}
"""Each reader, with the expected report and the number of cases within which it must appear."""

_READ = (
    *(raises, raises_at_once, breaks_its_promise, says_two_lines),
    *(is_slow, fills_the_memory, runs_out_of_memory, crashes),
)
READERS = [Reader(read.__name__, read, lambda: [b"A" * 8], (DataError,)) for read in _READ]
