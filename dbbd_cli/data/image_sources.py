"""What a data set consists of: its classes, and the file or URL of each sample. No image is decoded here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dbbd_cli.data.findings import UNPRINTABLE, scan_folder, shortened, why
from dbbd_cli.data.image_file import HEAD_BYTES, IMAGE_SUFFIXES, image_format
from dbbd_cli.data.url_grammar import synthetic_urls
from dbbd_cli.data.url_table import read_url_table
from dbbd_cli.errors import DataError
from dbbd_cli.text import printable

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
_SUFFIXES = tuple(IMAGE_SUFFIXES)
_LINKED_FOLDER = "is a link to a folder, which is not followed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that a source offers.

    Args:
        key: "class/path/in/it.png" with forward slashes, or the URL.
        label: position of its class in `Source.classes`.
    """

    key: str
    label: int


@dataclass(frozen=True)
class Source:
    """The contents of a data set.

    Args:
        kind: folder, classes, urls or synthetic.
        classes: names, sorted; for kind classes in the order written.
        candidates: all samples, sorted by label and key.
        roots: the folder of each class; empty where the samples are URLs.
        problems: what should be a sample and is not, one line each: "file: reason".
        ignored: number of files that are no images by name or content; hidden ones are not counted.
    """

    kind: str
    classes: tuple[str, ...]
    candidates: list[Candidate]
    roots: tuple[Path, ...]
    problems: list[str]
    ignored: int


def list_folder(path: Path) -> Source:
    """Lists a folder that has one sub-folder per class.

    Raises:
        DataError: the folder is missing or unreadable, has fewer than two classes, holds whole splits, or a class
            has no images.
    """
    names, problems, ignored = [], [], 0
    for entry in scan_folder(path, "data.path"):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif _is_linked_folder(entry):
            problems.append(f"{printable(entry.name)}: {_LINKED_FOLDER}")
        else:
            ignored += 1
    if len(names) < 2:
        found = f"only one class folder, {printable(names[0])}" if names else "no sub-folders"
        raise DataError(
            f"{path} has {found}: a classifier needs at least two classes",
            hint="give each class a sub-folder with its images, and set data.path to the folder that holds these",
            details=shortened(sorted(problems)),
        )
    _reject_splits(path, names)
    return _list_roots("folder", {name: path / name for name in sorted(names)}, "data.path", problems, ignored)


def list_classes(folders: Mapping[str, Path]) -> Source:
    """Lists data with a folder of its own for each class.

    Args:
        folders: class name to its folder.

    Raises:
        DataError: there are fewer than two classes, or a folder is missing or unreadable, has no images, or lies in
            that of another class.
    """
    if len(folders) < 2:
        raise DataError("a classifier needs at least two classes", hint="name a folder for each class in data.classes")
    real = {name: Path(os.path.realpath(root)) for name, root in folders.items()}
    for inner in folders:
        for outer in folders:
            if inner != outer and real[inner].is_relative_to(real[outer]):
                raise DataError(
                    f"the folder of class {inner} ({folders[inner]}) is, or lies in, that of class {outer}",
                    hint="give each class a folder of its own in data.classes, or an image would have two labels",
                )
    return _list_roots("classes", folders, "data.classes", [], 0)


def list_urls(path: Path, url_column: str, label_column: str) -> Source:
    """Lists a CSV file with a URL and a class name in each row; a URL that occurs twice makes two candidates.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8, lacks a column, or has fewer than two classes.
    """
    samples, problems = read_url_table(path, url_column, label_column)
    names = tuple(sorted({name for _, name in samples}))
    if len(names) < 2:
        found = f"only the class {names[0]}" if names else "no row that can be used"
        raise DataError(
            f"{path} has {found}: a classifier needs at least two classes",
            hint=f"check that the column {label_column} holds the class of each URL",
            details=shortened(problems),
        )
    label_of = {name: label for label, name in enumerate(names)}
    candidates = [Candidate(url, label_of[name]) for url, name in sorted(samples, key=lambda sample: sample[::-1])]
    return Source("urls", names, candidates, (), problems, 0)


def list_synthetic(count_per_class: int, seed: int) -> Source:
    """Lists made-up URLs of the classes benign and malicious."""
    urls = synthetic_urls(count_per_class, seed)
    names = tuple(sorted(urls))
    candidates = [Candidate(url, label) for label, name in enumerate(names) for url in sorted(urls[name])]
    return Source("synthetic", names, candidates, (), [], 0)


def file_of(roots: Sequence[Path], key: str, label: int) -> Path:
    """The file that a candidate's key names.

    Args:
        roots: the folder of each class.
        key: the key; it may come from a stored file and is not trusted.
        label: the candidate's label.

    Raises:
        DataError: the key does not lie in the folder of the class.
    """
    _, *parts = key.split("/")
    # On Windows a backslash separates folders too, and a colon leads to a drive; elsewhere both are plain characters.
    forbidden = set("\0\\:" if os.name == "nt" else "\0")
    named = parts and not any(part in ("", ".", "..") or forbidden & set(part) for part in parts)
    if not named or not 0 <= label < len(roots):
        raise DataError(
            f"{printable(key)} does not name a file in the folder of a class",
            hint="the stored list of files was damaged or changed by hand; start a new run",
        )
    return roots[label].joinpath(*parts)


def _reject_splits(path: Path, names: list[str]) -> None:
    if not _SPLIT_NAMES.issuperset(name.lower() for name in names):
        return
    for name in sorted(names):
        entries = scan_folder(path / name, "data.path")
        if any(entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") for entry in entries):
            raise DataError(
                f"{path} is divided into {', '.join(sorted(names))}, not into classes; dbbd makes the splits itself",
                hint=f"set data.path to one of them, such as {path / name}, or merge them class by class",
            )


def _list_roots(kind: str, folders: Mapping[str, Path], setting: str, problems: list[str], ignored: int) -> Source:
    candidates: list[Candidate] = []
    for label, (name, root) in enumerate(folders.items()):
        if UNPRINTABLE.search(name) or "/" in name:  # the first slash of a key ends the name of its class
            raise DataError(
                f"the class name {printable(name)} has a slash, or characters that cannot be shown",
                hint="rename the class, with plain text in UTF-8",
            )
        keys, findings, others = _list_class(name, root, setting)
        if not keys:
            raise DataError(
                f"class {name} has no images in its folder {root}",
                hint=f"add images ({' '.join(sorted(IMAGE_SUFFIXES))}), or take the class away",
                details=shortened(findings),
            )
        candidates += [Candidate(key, label) for key in keys]
        problems += findings
        ignored += others
    return Source(kind, tuple(folders), candidates, tuple(folders.values()), sorted(problems), ignored)


def _list_class(name: str, root: Path, setting: str) -> tuple[list[str], list[str], int]:
    """The keys of the images below a folder, the problems found there, both sorted, and the number of other files."""
    keys: list[str] = []
    problems: list[str] = []
    ignored = 0
    real_root = Path(os.path.realpath(root))
    pending = [(name, scan_folder(root, setting))]
    while pending:
        folder, entries = pending.pop()
        for entry in entries:
            if entry.name.startswith("."):
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
            else:
                ignored += 1
    return sorted(keys), sorted(problems), ignored


def _problem(entry: os.DirEntry[str], key: str, real_root: Path) -> str | None:
    """Why an entry that looks like a sample cannot be one; None where it is an image, or nothing to do with images."""
    if entry.is_symlink():
        if _is_linked_folder(entry):
            return _LINKED_FOLDER
        if not _is_image_name(entry.name):
            return None
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(real_root):
            return "is a link out of the folder"
        if not target.is_file():
            return "is a link to a missing file"
    if not _is_image_name(entry.name):
        return _wrong_name(entry)
    if UNPRINTABLE.search(key):
        return "its name has characters that cannot be shown; rename it, with plain text in UTF-8"
    return None


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed to this user
        return False


def _wrong_name(entry: os.DirEntry[str]) -> str | None:
    if not entry.is_file():  # opening a pipe would wait for ever
        return None
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - a Path object per file is slow
            announced = image_format(file.read(HEAD_BYTES))
    except OSError:
        return None
    suffix = printable(PurePath(entry.name).suffix)
    return f"wrongly named: is a {announced} but named {suffix or 'without a suffix'}" if announced else None


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)
