"""List the folder of a class: images, files that should be images but are not, and others. Nothing is decoded."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePath

from dbbd_cli.core.text import printable
from dbbd_cli.data.folder_entries import is_system_entry
from dbbd_cli.data.images.formats import (
    FORMAT_OF_SUFFIX,
    HEAD_BYTES,
    UNREAD_SUFFIXES,
    can_read,
    image_format,
    suffix_of,
    unread_format,
    with_article,
)
from dbbd_cli.data.problems import UNPRINTABLE, scan_folder, why

LINKED_FOLDER = "is a link to a folder, which is not followed"


def list_class(name: str, root: Path, setting: str) -> tuple[list[str], list[str], int, Counter[str]]:
    """List the folder of a class and its subfolders.

    Returns:
        The keys of the images and the problems, both sorted, the number of files that are not images, and the number of
        images in unsupported formats by suffix.

    Raises:
        DataError: the folder is missing or unreadable.
    """
    keys: list[str] = []
    problems: list[str] = []
    unread: Counter[str] = Counter()
    ignored = 0
    real_root = Path(os.path.realpath(root))
    pending = [(name, scan_folder(root, setting))]
    while pending:
        folder, entries = pending.pop()
        for entry in entries:
            if is_system_entry(entry.name):
                continue
            key = f"{folder}/{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    with os.scandir(entry.path) as inner:
                        pending.append((key, list(inner)))
                    continue
                problem = _problem(entry, key, real_root)
            except OSError as error:
                problem = f"cannot be opened: {why(error)}"
            if problem:
                problems.append(f"{printable(key)}: {problem}")
            elif _is_image_name(entry.name) and entry.is_file():
                keys.append(key)
            elif _is_unread(entry):
                unread[printable(suffix_of(entry.name)) or "without a suffix"] += 1
            else:
                ignored += 1
    return sorted(keys), sorted(problems), ignored, unread


def _problem(entry: os.DirEntry[str], key: str, real_root: Path) -> str | None:
    """Why an entry that should be an image cannot be used; None if it can, or is not an image."""
    if entry.is_symlink():
        if is_linked_folder(entry):
            return LINKED_FOLDER
        if not _is_image_name(entry.name):
            return None
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(real_root):
            return "is a link that leads out of the folder"
        if not target.is_file():
            return "is a link to a missing file"
    if not _is_image_name(entry.name):
        return _wrong_name(entry)
    if UNPRINTABLE.search(key):
        return "its name has unprintable characters; rename it"
    return None


def is_linked_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to a folder."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def _wrong_name(entry: os.DirEntry[str]) -> str | None:
    announced = image_format(_head(entry))
    suffix = suffix_of(entry.name)
    if (
        announced is None
        or announced == "PNM"  # a text may begin with the same three characters
        or announced == FORMAT_OF_SUFFIX.get(suffix)
        or (announced == "TIFF" and suffix[1:] in UNREAD_SUFFIXES)  # the raw formats of many cameras are TIFF
    ):
        return None
    shown = printable(PurePath(entry.name).suffix)
    return f"wrongly named: is {with_article(announced)} but named {shown or 'without a suffix'}"


def _is_unread(entry: os.DirEntry[str]) -> bool:
    """Whether an entry without a `_problem` is an image in an unsupported format."""
    suffix = suffix_of(entry.name)
    if suffix in FORMAT_OF_SUFFIX or suffix[1:] in UNREAD_SUFFIXES:
        return _is_file(entry)
    return not suffix and unread_format(_head(entry)) is not None


def _head(entry: os.DirEntry[str]) -> bytes:
    """The first bytes of a file; empty if it is not a file or cannot be read."""
    if not _is_file(entry):  # opening a named pipe would block forever
        return b""
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - a Path object per file is slow
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_image_name(name: str) -> bool:
    return can_read(FORMAT_OF_SUFFIX.get(suffix_of(name), ""))
