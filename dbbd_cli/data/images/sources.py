"""List datasets: their classes, and the file or URL of each sample. Nothing is decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.candidates import Candidates, Source, check_number_of_classes
from dbbd_cli.data.folder_entries import by_suffix, is_system_entry
from dbbd_cli.data.images.formats import (
    FORMAT_OF_SUFFIX,
    begins_like_image,
    can_read,
    is_image_name,
    is_unread_name,
    suffix_of,
    ways_to_read,
)
from dbbd_cli.data.images.shard_paths import contains_shards
from dbbd_cli.data.problems import UNPRINTABLE, scan_folder, shortened, why

_LINKED_FOLDER = "is a link to a folder, which is not followed"
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def list_folder(path: Path) -> Source:
    """List a folder with one subfolder per class.

    Raises:
        DataError: the folder is missing or unreadable, has fewer than two classes or too many, is divided into splits,
            or a class has no images.
    """
    names, problems, ignored = [], [], 0
    for entry in scan_folder(path, "data.path"):
        if is_system_entry(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            names.append(entry.name)
        elif _is_linked_folder(entry):
            problems.append(f"{printable(entry.name)}: {_LINKED_FOLDER}")
        else:
            ignored += 1
    if len(names) < 2:
        found = f"only one class folder, {printable(names[0])}" if names else "no subfolders"
        raise DataError(
            f"{path} has {found}: a classifier needs at least two classes",
            hint="to read the tar files in it, --set data.source=shards"
            if contains_shards(path)
            else "give each class a subfolder with its images, and set data.path to the folder that contains them",
            details=shortened(sorted(problems)),
        )
    check_number_of_classes(
        path, names, "give each class a subfolder with its images; folders of single images are not classes"
    )
    _reject_splits(path, names)
    return _list_roots("folder", {name: path / name for name in sorted(names)}, "data.path", problems, ignored)


def list_classes(folders: Mapping[str, Path]) -> Source:
    """List data with a separate folder for each class.

    Args:
        folders: folder by class name.

    Raises:
        DataError: there are fewer than two classes, or a folder is missing or unreadable, has no images, or lies inside
            that of another class.
    """
    if len(folders) < 2:
        raise DataError("a classifier needs at least two classes", hint="set a folder for each class in data.classes")
    check_number_of_classes(Path("data.classes"), list(folders), "leave classes out of data.classes")
    real = {name: Path(os.path.realpath(root)) for name, root in folders.items()}
    class_at = {root: name for name, root in real.items()}
    for inner, root in real.items():
        outer = next((class_at[place] for place in (root, *root.parents) if class_at.get(place, inner) != inner), None)
        if outer is not None:
            raise DataError(
                f"the folder of class {inner} ({folders[inner]}) is, or lies in, that of class {outer}",
                hint="give each class a separate folder in data.classes; otherwise an image would have two labels",
            )
    return _list_roots("classes", folders, "data.classes", [], 0)


def list_images(folder: Path) -> tuple[list[Path], list[str], int, Counter[str]]:
    """List the images of a folder and its subfolders, as those of a class are listed.

    Returns:
        The images and the problems of others, both sorted, the number of files that are not images, and the number of
        images in unsupported formats by suffix.

    Raises:
        DataError: the folder is missing or unreadable.
    """
    keys, problems, ignored, unread = _list_class(".", folder, "another input")
    return [folder / key[2:] for key in keys], [problem[2:] for problem in problems], ignored, unread


def file_of(roots: Sequence[Path], key: str, label: int) -> Path:
    """Return the file that a key names; see `files_of`."""
    [path] = files_of(roots, [key], [label])
    return Path(path)


def files_of(roots: Sequence[Path], keys: Sequence[str], labels: Sequence[int]) -> list[str]:
    """Return the files that keys name.

    Args:
        roots: the folder of each class.
        keys: the keys, which may come from a stored file and are not trusted.
        labels: the label of each sample.

    Raises:
        DataError: a key does not lie in the folder of its class.
    """
    # On Windows a backslash also separates folders, and a colon selects a drive.
    forbidden = ("//", "/./", "/../", "\0", *("\\:" if os.name == "nt" else ""))

    def is_unsafe(path: str) -> bool:
        return any(part in f"/{path}/" for part in forbidden)

    is_suspicious = is_unsafe("/\n/".join(keys))  # one search in all takes a fraction of the time of a million
    before = [str(root / "x")[:-1] for root in roots]
    paths = []
    for key, label in zip(keys, labels, strict=True):
        _, slash, place = key.partition("/")
        if not slash or not 0 <= label < len(roots) or (is_suspicious and is_unsafe(place)):
            raise DataError(
                f"{printable(key)} does not name a file in the folder of a class",
                hint="the stored list of files was damaged or edited; start a new run",
            )
        paths.append(before[label] + (place if os.sep == "/" else place.replace("/", os.sep)))
    return paths


def _reject_splits(path: Path, names: list[str]) -> None:
    if not _SPLIT_NAMES.issuperset(name.lower() for name in names):
        return
    for name in sorted(names):
        entries = scan_folder(path / name, "data.path")
        if any(entry.is_dir(follow_symlinks=False) and not is_system_entry(entry.name) for entry in entries):
            raise DataError(
                f"{path} is divided into {', '.join(sorted(names))}, not into classes; dbbd makes the splits itself",
                hint=f"set data.path to one of them, such as {path / name}, or merge them class by class",
            )


def _list_roots(kind: str, folders: Mapping[str, Path], setting: str, problems: list[str], ignored: int) -> Source:
    all_keys: list[str] = []
    labels: list[int] = []
    unread: Counter[str] = Counter()
    for label, (name, root) in enumerate(folders.items()):
        if UNPRINTABLE.search(name) or "/" in name:  # the first slash of a key ends the name of its class
            raise DataError(
                f"the class name {printable(name)} has a slash or unprintable characters",
                hint="rename the class",
            )
        keys, class_problems, others, class_unread = _list_class(name, root, setting)
        if not keys:
            raise _no_images(name, root, class_problems, class_unread)
        unread += class_unread
        all_keys += keys
        labels += [label] * len(keys)
        problems += class_problems
        ignored += others
    candidates = Candidates(all_keys, labels)
    return Source(kind, tuple(folders), candidates, tuple(folders.values()), sorted(problems), ignored, unread)


def _list_class(name: str, root: Path, setting: str) -> tuple[list[str], list[str], int, Counter[str]]:
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
                if is_image_name(entry.name) and entry.is_file(follow_symlinks=False) and not UNPRINTABLE.search(key):
                    keys.append(key)  # nearly all entries, so first
                    continue
                if entry.is_dir(follow_symlinks=False):
                    with os.scandir(entry.path) as inner:
                        pending.append((key, list(inner)))
                    continue
                problem = _problem(entry, key, real_root)
            except OSError as error:
                problem = f"cannot be opened: {why(error)}"
            if problem:
                problems.append(f"{printable(key)}: {problem}")
            elif is_image_name(entry.name) and entry.is_file():
                keys.append(key)
            elif is_unread_name(entry.name):
                unread[suffix_of(entry.name)] += 1
            elif entry.is_file(follow_symlinks=False) and begins_like_image(entry.path):
                problems.append(f"{printable(key)}: is an image, but its name does not end like one; rename it")
            else:
                ignored += 1
    return sorted(keys), sorted(problems), ignored, unread


def _problem(entry: os.DirEntry[str], key: str, real_root: Path) -> str | None:
    """Return why an entry that should be an image cannot be used; None if it can, or is not an image."""
    if _is_linked_folder(entry):
        return _LINKED_FOLDER
    if not is_image_name(entry.name):
        return None
    if entry.is_symlink():
        target = Path(os.path.realpath(entry.path))
        if not target.is_relative_to(real_root):
            return "is a link that leads out of the folder"
        if not target.is_file():
            return "is a link to a missing file"
    if UNPRINTABLE.search(key):
        return "its name has unprintable characters; rename it"
    return None


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link to a folder."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def _no_images(name: str, root: Path, problems: Sequence[str], unread: Mapping[str, int]) -> DataError:
    if not unread:
        return DataError(
            f"class {name} has no images in its folder {root}",
            hint=f"add images ({' '.join(suffix for suffix, name in FORMAT_OF_SUFFIX.items() if can_read(name))}), "
            "or remove the class",
            details=shortened(problems),
        )
    ways = [f"for {suffix}: {way}" for suffix, way in ways_to_read(unread).items()]
    return DataError(
        f"class {name} has only images in unsupported formats in its folder {root}: {by_suffix(unread)}",
        hint="; ".join([*ways, f"{'or ' if ways else ''}convert them, for example to JPEG or PNG"]),
        details=shortened(problems),
    )
