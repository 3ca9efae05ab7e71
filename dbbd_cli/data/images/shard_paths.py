"""Paths, URLs and patterns of tar shards. Nothing here imports NumPy: the settings are checked with it."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.files import require_regular
from dbbd_cli.core.paths import is_url, shown_url
from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.folder_entries import is_system_entry
from dbbd_cli.data.problems import scan_folder, shortened, unreadable

SUFFIX = ".tar"
MAX_SHARDS = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def looks_like_shards(path: str) -> bool:
    """Return whether a path or URL is that of one or more tar files, existing or not, by its name."""
    return without_query(path).endswith(SUFFIX)


def contains_shards(folder: Path) -> bool:
    """Return whether a folder of this machine contains tar files, and no folders."""
    if not folder.is_dir():
        return False
    entries = [entry for entry in folder.iterdir() if not is_system_entry(entry.name)]
    return any(looks_like_shards(entry.name) for entry in entries) and not any(entry.is_dir() for entry in entries)


def expand_braces(pattern: str) -> list[str]:
    """Expand braces as WebDataset and shells do: `{000..099}` to numbers with leading zeros, `{a,b}` to its parts.

    Raises:
        DataError: there are too many, or braces within braces.
    """
    pieces = _BRACES.split(pattern)  # every other one is the content of braces
    if any(set("{}") & set(piece) for piece in pieces[::2]):
        raise DataError(
            f"data.path: {shown_url(pattern)} has braces that cannot be expanded",
            hint="write a range such as {000..099}, or alternatives such as {a,b}, and not one within another",
        )
    choices = [_choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MAX_SHARDS:
        raise DataError(f"data.path: {shown_url(pattern)} is more than {MAX_SHARDS:,} shards", hint="check the range")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(content: str) -> Sequence[str]:
    """What braces with this content stand for; one more than the limit for too many."""
    if found := _RANGE.fullmatch(content):
        first, last = int(found[1]), int(found[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        return [f"{number:0{len(found[1])}}" for number in numbers[: MAX_SHARDS + 1]]
    return content.split(",") if "," in content else [f"{{{content}}}"]


def places(path: str) -> list[str]:
    """The path or URL of each shard, all of which exist if they are on this machine.

    Raises:
        DataError: there are none, or some do not exist.
    """
    found = expand_braces(path)
    if len(found) == 1 and not looks_like_shards(path) and (is_url(path) or not os.path.isfile(path)):  # noqa: PTH113
        return _places_in(path)
    if is_url(path):
        return found
    missing = [place for place in found if not os.path.isfile(place)]  # noqa: PTH113 - a Path raises for long names
    if len(found) == 1 and missing:
        raise unreadable(Path(path), "data.path", _error_of(path))
    if missing:
        raise DataError(
            f"{len(missing):,} of the {counted(len(found), 'shard')} of data.path {printable(path)} do not exist",
            hint="check the range, or restore them",
            details=shortened([printable(place) for place in missing]),
        )
    return [Path(place).as_posix() for place in found]


def _error_of(path: str) -> Exception:
    """Why a file cannot be read."""
    try:
        require_regular(Path(path))
        Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return error
    return FileNotFoundError(path)


def _places_in(folder: str) -> list[str]:
    """The shards of a folder."""
    if is_url(folder):
        from dbbd_cli.data.remote import list_remote_folder  # threads, which no other path needs, take 10 ms to import

        found = list_remote_folder(folder)
    else:
        entries = scan_folder(Path(folder), "data.path")
        found = sorted(Path(entry.path).as_posix() for entry in entries if not is_system_entry(entry.name))
    places = [place for place in found if looks_like_shards(place)]
    if not places:
        compressed = [place for place in found if place.endswith(_COMPRESSED)]
        missing = (
            "set data.path to the folder with the shards, to one of them, or to a pattern such as a-{000..099}.tar"
        )
        raise DataError(
            f"{shown_url(folder)} contains no .tar files",
            hint="decompress the shards: samples are read from any place of them" if compressed else missing,
            details=shortened([shown_url(place) for place in compressed]),
        )
    return places


def without_query(place: str) -> str:
    """Return a URL without query and fragment; a path unchanged."""
    return re.split("[?#]", place)[0] if is_url(place) else place


def common_folder(places: Sequence[str]) -> str:
    """The folder that all of these files have in common, with a slash at its end; empty for the current folder."""
    levels = zip(*(without_query(place).split("/")[:-1] for place in places), strict=False)
    common = itertools.takewhile(lambda names: len(set(names)) == 1, levels)
    return "".join(f"{names[0]}/" for names in common)
