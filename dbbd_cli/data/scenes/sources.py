"""List the scenes of a folder, and assign each to a split. No scene is read here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.folder_entries import by_suffix, is_system_entry
from dbbd_cli.data.manifest import SPLITS
from dbbd_cli.data.problems import UNPRINTABLE, scan_folder, shortened, why
from dbbd_cli.data.scenes.formats.npy import COORD_FILE, FOLDER_ARRAYS
from dbbd_cli.data.scenes.reader import READERS
from dbbd_cli.data.splitting import assign_splits

FollowLinks = Literal["scenes", "all"]


@dataclass(frozen=True, slots=True)
class SceneCandidate:
    """A scene in a folder.

    Attributes:
        key: its path below the root, with forward slashes: "train/scene0000.pkl".
        split: train, val or test if the folder is divided, otherwise None.
    """

    key: str
    split: str | None


@dataclass
class SceneSource:
    """The contents of a folder of scenes.

    Attributes:
        root: the folder.
        candidates: all scenes, sorted by split and key.
        problems: entries that should be scenes but are not, one line each: "file: reason".
        ignored: number of files and folders that are not scenes; system files, such as hidden ones, do not count.
        unread: number of scans in unsupported formats, by suffix.
        linked: number of scenes that are links to places outside the folder.
    """

    root: Path
    candidates: list[SceneCandidate] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ignored: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    linked: int = 0

    @property
    def has_splits(self) -> bool:
        """Whether the folder is divided into splits."""
        return any(candidate.split for candidate in self.candidates)


def list_scenes(root: Path, *, follow_links: FollowLinks = "scenes") -> SceneSource:
    """List the folder of `data.path`: divided into `train`, `val` and optionally `test`, or undivided.

    A scene is a file with a suffix in `READERS`, or a folder with `coord.npy`; of `.txt` and `.csv` files, only those
    that begin with lines of numbers. A link to a scene is followed wherever
    it points: whoever created a folder of links has chosen these scenes.

    Args:
        root: the folder.
        follow_links: `all` also follows links inside a scene folder that point outside it.

    Raises:
        DataError: the folder is missing or unreadable, has no scenes, has scenes next to its splits, or lacks a split.
    """
    entries = scan_folder(root, "data.path")
    names = {entry.name for entry in entries}
    if COORD_FILE in names:
        raise DataError(f"{root} is a single scene", hint="set data.path to the folder that contains it and others")
    # Not with Path, which raises if a link points to a name that is too long.
    folders = [name for name in SPLITS if name in names and os.path.isdir(root / name)]  # noqa: PTH112
    if folders and os.path.exists(root / folders[0] / COORD_FILE):  # noqa: PTH110
        folders = []  # a scene that is called train
    missing = [name for name in ("train", "val") if name not in folders]
    if folders and missing:
        raise DataError(
            f"{root} has a folder {' and '.join(folders)}, but none for {' and '.join(missing)}",
            hint=f"add the folder, or put all scenes directly into {root}: dbbd then divides them itself",
        )
    source = SceneSource(root)
    _list(source, None, [entry for entry in entries if entry.name not in folders], follow_links)
    if folders and source.candidates:
        raise DataError(
            f"{root} has scenes next to its folders {', '.join(folders)}, such as "
            f"{printable(source.candidates[0].key)}",
            hint="move each scene into one of the folders, or remove the folders",
        )
    for name in folders:
        _list(source, name, scan_folder(root / name, "data.path"), follow_links)
    expected: list[str | None] = [*folders] if folders else [None]
    for split in expected:
        if not any(candidate.split == split for candidate in source.candidates):
            raise _no_scenes(root / split if split else root, source)
    source.problems.sort()
    return source


def find_scenes(root: Path) -> SceneSource:
    """List all scenes of a folder and its subfolders, divided or not; links to folders are not searched.

    Raises:
        DataError: a folder is missing or unreadable.
    """
    source = SceneSource(root)
    waiting: list[str | None] = [None]
    while waiting:
        below = waiting.pop()
        entries = []
        for entry in scan_folder(root / below if below else root, "INPUT"):
            is_folder = entry.is_dir(follow_symlinks=False) and not is_system_entry(entry.name)
            if is_folder and not os.path.lexists(Path(entry.path, COORD_FILE)):
                waiting.append(f"{below}/{entry.name}" if below else entry.name)
            else:
                entries.append(entry)
        _list(source, below, entries, "scenes")
    source.candidates.sort(key=lambda candidate: candidate.key)
    source.problems.sort()
    return source


def choose_scenes(source: SceneSource, shares: Sequence[float], seed: int) -> list[tuple[str, str]]:
    """Assign every scene to a split.

    Scenes with the same name and different formats (`room.ply`, `room.npz`) stay in one split, and so do the scans of
    one ScanNet room (`scene0000_00`, `scene0000_01`).

    Args:
        source: the scenes.
        shares: fractions of train, val and test if the folder is not divided.
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
                f"{source.root} has too few scenes ({len(keys)}): 3 are needed for training, validation and test",
                hint="add scenes",
            )
        rooms = [_room(key) for key in keys]
        if len(names := sorted(set(rooms))) < 3:
            raise DataError(
                f"{source.root} has scenes of too few rooms ({', '.join(names)}): 3 are needed for training, "
                "validation and test, because all scans of a room stay in one split",
                hint="add others, or divide them yourself into folders train and val",
            )
        splits = assign_splits(keys, [0] * len(keys), rooms, ["scenes"], shares, seed)
    return sorted(zip(keys, splits, strict=True), key=lambda pair: (SPLITS.index(pair[1]), pair[0]))


_SCANNET = re.compile(r"(scene\d{4})_\d{2}")


def _room(key: str) -> str:
    """The name of the scanned room, if the name of a scene contains it."""
    stem = PurePath(key).stem if _has_reader(key) else key
    scannet = _SCANNET.match(stem)
    return scannet[1] if scannet else stem


def scene_path(root: Path, key: str) -> Path:
    """The file or folder of a key, which may come from a stored list and is not trusted.

    Raises:
        DataError: the key points outside the folder.
    """
    parts = key.split("/")
    # On Windows a backslash is a separator too, and a colon names a drive; elsewhere both are plain characters.
    forbidden = set("\0\\:" if os.name == "nt" else "\0")
    if any(part in ("", ".", "..") or forbidden & set(part) for part in parts):
        raise DataError(
            f"{printable(key)} does not name a scene in its folder",
            hint="the stored list of scenes is damaged or was edited; start a new run",
        )
    return root.joinpath(*parts)


def _no_scenes(folder: Path, found: SceneSource) -> DataError:
    details = shortened(sorted(found.problems))
    if found.unread:
        return DataError(
            f"{folder} has scans only in unsupported formats: {by_suffix(found.unread)}",
            hint="save them as PLY or LAS, for example in CloudCompare or MeshLab",
            details=details,
        )
    hint = (
        f"a scene is a file {', '.join(READERS)}, or a folder with {COORD_FILE}; {' and '.join(_TABLE_SUFFIXES)} count "
        f"only if they begin with {_MIN_LINES} lines of three numbers or more"
    )
    return DataError(f"{folder} has no scenes", hint=hint, details=details)


def _list(source: SceneSource, split: str | None, entries: list[os.DirEntry[str]], follow_links: FollowLinks) -> None:
    """Add the entries of the folder, or of the folder of a split, to `source`."""
    real_folder = Path(os.path.realpath(source.root / split if split else source.root))
    for entry in sorted(entries, key=lambda entry: entry.name):
        if is_system_entry(entry.name):
            continue
        key = f"{split}/{entry.name}" if split else entry.name
        try:
            problem = _add(entry, SceneCandidate(key, split), source, real_folder, follow_links)
        except OSError as error:
            problem = f"cannot be opened: {why(error)}"
        if problem:
            source.problems.append(f"{printable(key)}: {problem}")


def _add(
    entry: os.DirEntry[str],
    candidate: SceneCandidate,
    source: SceneSource,
    real_folder: Path,
    follow_links: FollowLinks,
) -> str:
    """Add an entry of a folder to `source`; returns why it is not a scene if it looks like one."""
    if entry.is_dir():
        with os.scandir(entry.path) as opened:
            inside = [file for file in opened if not is_system_entry(file.name)]
        if not Path(entry.path, COORD_FILE).is_file():
            return _add_other_folder(inside, source)
        outside = _link_out_of(entry.path, inside) if follow_links != "all" else None
        if outside:
            return (
                f"has a link, {printable(outside)}, that points outside its folder; to allow such links, add "
                "--set data.follow_links=all"
            )
    elif not _is_scene_file(entry):
        if entry.is_symlink() and "." not in entry.name and not Path(entry.path).exists():
            return "is a link to a missing file or folder"  # it may be a scene folder
        if suffix := _unread_suffix(entry):
            source.unread[suffix] += 1
        else:
            source.ignored += 1
        return ""
    elif not entry.is_file():
        return "is not a regular file" if Path(entry.path).exists() else "is a link to a missing file"
    if UNPRINTABLE.search(entry.name):
        return "its name has unprintable characters; rename it, in UTF-8"
    source.candidates.append(candidate)
    if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_folder):
        source.linked += 1
    return ""


def _add_other_folder(inside: Sequence[os.DirEntry[str]], source: SceneSource) -> str:
    """Add a folder that is not a scene to `source`; returns its problem, if any."""
    if any(file.name.endswith(".npy") for file in inside):
        return f"is a folder of arrays without {COORD_FILE}"
    if any(_is_scene_file(file) or Path(file.path, COORD_FILE).is_file() for file in inside):
        return "is a folder that contains scenes; subfolders are not searched"
    scans = Counter(suffix for file in inside if (suffix := _unread_suffix(file)))
    source.unread += scans
    source.ignored += not scans
    return ""


def _has_reader(name: str) -> bool:
    return name.lower().endswith(tuple(READERS))


def _is_scene_file(entry: os.DirEntry[str]) -> bool:
    """Whether a file is read as a scene, judging by its name, and by its first lines if notes have such names too."""
    is_ambiguous = entry.name.lower().endswith(_TABLE_SUFFIXES)
    return _has_reader(entry.name) and (not is_ambiguous or _is_table(entry))


_TABLE_SUFFIXES = (".txt", ".csv")
"""Suffixes of scans as well as of notes."""
_NUMBER = rb'"?(?:[-+.\de]+|[-+]?(?:nan(?:\(\w+\))?|inf))"?'
_POINT = re.compile(rb"\s*(?:%b[\s,;]+){2,}%b[\s,;]*" % (_NUMBER, _NUMBER), re.IGNORECASE)
_FIRST_BYTES, _FIRST_LINES, _MIN_LINES = 1 << 16, 100, 10


def _is_table(entry: os.DirEntry[str]) -> bool:
    """Whether a text begins with lines of three or more numbers, as points do, unlike notes and matrices."""
    try:
        if not entry.is_file():  # opening a pipe would block forever
            return False
        with Path(entry.path).open("rb") as file:
            lines = file.read(_FIRST_BYTES).splitlines()[:_FIRST_LINES]
    except OSError:
        return False
    return sum(_POINT.fullmatch(line) is not None for line in lines) >= _MIN_LINES


def _link_out_of(folder: str, inside: Sequence[os.DirEntry[str]]) -> str | None:
    """The first link among the arrays of a scene that points outside its folder."""
    real = Path(os.path.realpath(folder))
    for name in FOLDER_ARRAYS:
        link = next((file for file in inside if file.name == f"{name}.npy" and file.is_symlink()), None)
        if link and not Path(os.path.realpath(link.path)).is_relative_to(real):
            return link.name
    return None


# Scans in unsupported formats are recognized by name, so that they are reported instead of silently ignored.

_UNREAD_SUFFIXES = frozenset(
    {
        *(".ptx", ".fls", ".rcp", ".rcs", ".zfs", ".lsproj", ".fbx", ".dae", ".3ds", ".usdz", ".usd", ".vtk", ".vtp"),
        *(".drc", ".splat", ".spz", ".ksplat", ".bin", ".npy", ".h5", ".hdf5", ".pth", ".pt", ".mat", ".feather"),
        *(".parquet", ".ply.gz", ".ply.zip", ".npz.gz", ".pkl.gz", ".las.gz", ".pcd.gz", ".xyz.gz", ".pickle"),
    }
)


def _unread_suffix(entry: os.DirEntry[str]) -> str:
    """The suffix of a scan in an unsupported format; empty for anything else."""
    suffixes = PurePath(entry.name.lower()).suffixes
    return next((found for count in (2, 1) if (found := "".join(suffixes[-count:])) in _UNREAD_SUFFIXES), "")
