"""Which scenes a folder holds, and the split of each. No scene is read here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.folder_entries import by_suffix, is_system_entry
from dbbd_cli.data.manifest import SPLITS
from dbbd_cli.data.problems import UNPRINTABLE, scan_folder, shortened, why
from dbbd_cli.data.scenes.reader import COORD_FILE, FOLDER_FILES, SCENE_SUFFIXES
from dbbd_cli.data.scenes.unread_scans import unread_suffix
from dbbd_cli.data.splitting import assign_splits


@dataclass(frozen=True, slots=True)
class SceneCandidate:
    """A scene that a source offers.

    Args:
        key: its path below the root, with forward slashes: "train/scene0000.pkl".
        split: train, val or test where the folder says so; None where a split is still to be made.
    """

    key: str
    split: str | None


@dataclass(frozen=True)
class SceneSource:
    """The contents of a folder of scenes.

    Args:
        root: the folder.
        candidates: all scenes, sorted by split and key.
        problems: what should be a scene and is not, one line each: "file: reason".
        ignored: number of files and folders that are not scenes; system files, such as hidden ones, do not count.
        unread: number of scans in formats that are not read, by suffix.
        linked: number of scenes that are links to places outside the folder.
    """

    root: Path
    candidates: list[SceneCandidate]
    problems: list[str]
    ignored: int
    unread: Mapping[str, int]
    linked: int

    @property
    def has_splits(self) -> bool:
        """Whether the folder is divided into splits already."""
        return any(candidate.split for candidate in self.candidates)


@dataclass
class _Listing:
    """What has been found in a folder so far."""

    keys: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ignored: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    linked: int = 0


def list_scenes(root: Path, *, follow_links: Literal["scenes", "all"] = "scenes") -> SceneSource:
    """Lists the folder of `data.path`: divided into `train`, `val` and optionally `test`, or undivided.

    A scene is a file `.pkl`, `.ply` or `.npz`, or a folder with `coord.npy`. A link to a scene is followed wherever it
    points: whoever created a folder of links has chosen these scenes.

    Args:
        root: the folder.
        follow_links: `all` also follows links inside a scene folder that point outside it.

    Raises:
        DataError: the folder is missing or unreadable, has no scenes, or scenes beside its splits, or lacks a split.
    """
    entries = scan_folder(root, "data.path")
    names = {entry.name for entry in entries}
    if COORD_FILE in names:
        raise DataError(f"{root} is a single scene", hint="set data.path to the folder that holds it and others")
    # Not with Path, which raises where a link leads to a name that is too long.
    folders = [name for name in SPLITS if name in names and os.path.isdir(root / name)]  # noqa: PTH112
    if not folders or os.path.exists(root / folders[0] / COORD_FILE):  # noqa: PTH110
        found = _Listing()
        _list(root, "", entries, follow_links, found)
        if not found.keys:
            raise _no_scenes(root, found)
        return _source(root, [SceneCandidate(key, None) for key in sorted(found.keys)], found)

    missing = [name for name in ("train", "val") if name not in folders]
    if missing:
        raise DataError(
            f"{root} has a folder {' and '.join(folders)}, but none for {' and '.join(missing)}",
            hint=f"add the folder, or put all scenes straight into {root}: then dbbd makes the splits itself",
        )
    found = _Listing()
    _list(root, "", [entry for entry in entries if entry.name not in folders], follow_links, found)
    if found.keys:
        raise DataError(
            f"{root} has scenes beside its folders {', '.join(folders)}, such as {printable(min(found.keys))}",
            hint="put each scene into one of the folders, or take the folders away",
        )
    candidates: list[SceneCandidate] = []
    for split in folders:
        part = _Listing()
        _list(root / split, f"{split}/", scan_folder(root / split, "data.path"), follow_links, part)
        if not part.keys:
            raise _no_scenes(root / split, part)
        candidates += [SceneCandidate(key, split) for key in sorted(part.keys)]
        found.problems += part.problems
        found.ignored += part.ignored
        found.unread += part.unread
        found.linked += part.linked
    return _source(root, candidates, found)


def _source(root: Path, candidates: list[SceneCandidate], found: _Listing) -> SceneSource:
    return SceneSource(root, candidates, sorted(found.problems), found.ignored, found.unread, found.linked)


def _no_scenes(folder: Path, found: _Listing) -> DataError:
    if found.unread:
        return DataError(
            f"{folder} has scans only in formats that are not read: {by_suffix(found.unread)}",
            hint="save them as PLY, for example in CloudCompare or MeshLab, or with `pdal translate scan.las scan.ply`",
            details=shortened(sorted(found.problems)),
        )
    return DataError(f"{folder} has no scenes", hint=_WHAT_IS_A_SCENE, details=shortened(sorted(found.problems)))


def choose_scenes(source: SceneSource, shares: Sequence[float], seed: int) -> list[tuple[str, str]]:
    """Gives every scene its split.

    Scenes of one name and different kinds (`room.ply`, `room.npz`) stay in one split, and so do the scans of one room
    as ScanNet names them (`scene0000_00`, `scene0000_01`).

    Args:
        source: the scenes.
        shares: shares of train, val and test, where the folder is not divided.
        seed: seed of that division.

    Returns:
        (key, split) of each scene, by split and name.

    Raises:
        DataError: there are too few scenes for three splits.
    """
    keys = [candidate.key for candidate in source.candidates]
    if source.has_splits:
        splits = [candidate.split or "" for candidate in source.candidates]
    else:
        if len(keys) < 3:
            raise DataError(
                f"{source.root} has too few scenes ({len(keys)}): the training, validation and test split need 3",
                hint="add scenes",
            )
        places = [_place(key) for key in keys]
        if len(rooms := sorted(set(places))) < 3:
            raise DataError(
                f"{source.root} has scenes of too few rooms ({', '.join(rooms)}): those of one stay in one split, "
                "and the training, validation and test split need 3",
                hint="add others, or divide them yourself into folders train and val",
            )
        splits = assign_splits(keys, [0] * len(keys), places, ["scenes"], shares, seed)
    return sorted(zip(keys, splits, strict=True), key=lambda pair: (SPLITS.index(pair[1]), pair[0]))


def _place(key: str) -> str:
    """What was scanned, as far as the name of a scene tells."""
    stem = PurePath(key).stem if key.lower().endswith(SCENE_SUFFIXES) else key
    scannet = _SCANNET.match(stem)
    return scannet[1] if scannet else stem


def scene_path(root: Path, key: str) -> Path:
    """The file or folder that a key names. The key may come from a stored list and is not trusted.

    Raises:
        DataError: the key does not lie in the folder.
    """
    parts = key.split("/")
    # On Windows a backslash separates folders too, and a colon leads to a drive; elsewhere both are plain characters.
    forbidden = set("\0\\:" if os.name == "nt" else "\0")
    if any(part in ("", ".", "..") or forbidden & set(part) for part in parts):
        raise DataError(
            f"{printable(key)} does not name a scene in its folder",
            hint="the stored list of scenes was damaged or changed by hand; start a new run",
        )
    return root.joinpath(*parts)


_SCANNET = re.compile(r"(scene\d{4})_\d{2}")
_WHAT_IS_A_SCENE = f"a scene is a file {', '.join(SCENE_SUFFIXES)}, or a folder with {COORD_FILE}"


def _list(
    folder: Path, prefix: str, entries: list[os.DirEntry[str]], follow_links: Literal["scenes", "all"], found: _Listing
) -> None:
    """Adds the entries of a folder to what is found; their keys begin with `prefix`."""
    real_folder = Path(os.path.realpath(folder))
    for entry in entries:
        if is_system_entry(entry.name):
            continue
        try:
            problem = _look_at(entry, prefix, real_folder, follow_links, found)
        except OSError as error:
            problem = f"cannot be opened: {why(error)}"
        if problem:
            found.problems.append(f"{printable(prefix + entry.name)}: {problem}")


def _look_at(
    entry: os.DirEntry[str], prefix: str, real_folder: Path, follow_links: Literal["scenes", "all"], found: _Listing
) -> str:
    """Adds an entry of a folder to what is found; returns why it cannot be a scene if it looks like one."""
    named = entry.name.lower().endswith(SCENE_SUFFIXES)
    if entry.is_dir():
        with os.scandir(entry.path) as opened:
            inside = [file for file in opened if not is_system_entry(file.name)]
        if not Path(entry.path, COORD_FILE).is_file():
            return _look_into(inside, found)
        outside = _link_out_of(entry.path, inside) if follow_links != "all" else None
        if outside:
            return (
                f"has a link, {printable(outside)}, that points outside its folder; to allow such links, add "
                "--set data.follow_links=all"
            )
    elif not named:
        if entry.is_symlink() and "." not in entry.name and not Path(entry.path).exists():
            return "is a link to a missing file or folder"  # it may be the folder of a scene
        suffix = unread_suffix(entry)
        if suffix:
            found.unread[suffix] += 1
        else:
            found.ignored += 1
        return ""
    elif not entry.is_file():
        if not entry.is_symlink():
            return "is not a regular file"
        exists = Path(entry.path).exists()
        return f"is a link to {'something that is not a regular file' if exists else 'a missing file'}"
    if UNPRINTABLE.search(entry.name):
        return "its name has characters that cannot be shown; rename it, with plain text in UTF-8"
    found.keys.append(prefix + entry.name)
    if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_folder):
        found.linked += 1
    return ""


def _look_into(inside: Sequence[os.DirEntry[str]], found: _Listing) -> str:
    """Adds a folder that is not a scene to what is found; returns its problem, if any."""
    if any(file.name.endswith(".npy") for file in inside):
        return f"is a folder of arrays without {COORD_FILE}"
    if any(file.name.lower().endswith(SCENE_SUFFIXES) or Path(file.path, COORD_FILE).is_file() for file in inside):
        return "is a folder with scenes in it, which is not looked into"
    scans = Counter(suffix for file in inside if (suffix := unread_suffix(file)))
    found.unread += scans
    found.ignored += not scans
    return ""


def _link_out_of(folder: str, inside: Sequence[os.DirEntry[str]]) -> str | None:
    """The first link among the arrays of a scene that points outside its folder."""
    real = Path(os.path.realpath(folder))
    for name in FOLDER_FILES:
        link = next((file for file in inside if file.name == f"{name}.npy" and file.is_symlink()), None)
        if link and not Path(os.path.realpath(link.path)).is_relative_to(real):
            return link.name
    return None
