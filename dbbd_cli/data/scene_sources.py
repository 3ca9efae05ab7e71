"""Which scenes a folder holds, and the split of each. No scene is read here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dbbd_cli.data.findings import UNPRINTABLE, scan_folder, shortened, why
from dbbd_cli.data.scene_file import COORD_FILE, SCENE_SUFFIXES
from dbbd_cli.data.split import SPLITS, assign_splits
from dbbd_cli.errors import DataError
from dbbd_cli.text import printable


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
        ignored: number of files that are no scenes; hidden ones are not counted.
    """

    root: Path
    candidates: list[SceneCandidate]
    problems: list[str]
    ignored: int

    @property
    def has_splits(self) -> bool:
        """Whether the folder is divided into splits already."""
        return any(candidate.split for candidate in self.candidates)


def list_scenes(root: Path, setting: str = "data.path") -> SceneSource:
    """Lists a folder that is divided into `train`, `val` and, perhaps, `test`, or holds scenes as they are.

    A scene is a file `.pkl`, `.ply` or `.npz`, or a folder with `coord.npy`. Links are followed to files in the same
    folder only.

    Args:
        root: the folder.
        setting: the setting that it comes from, for errors.

    Raises:
        DataError: the folder is missing or unreadable, has no scenes, or scenes beside its splits, or lacks a split.
    """
    entries = scan_folder(root, setting)
    names = {entry.name for entry in entries}
    if COORD_FILE in names:
        raise DataError(f"{root} is a single scene", hint=f"set {setting} to the folder that holds it and others")
    # Not with Path, which raises where a link leads to a name that is too long.
    folders = [name for name in SPLITS if name in names and os.path.isdir(root / name)]  # noqa: PTH112
    if not folders or os.path.exists(root / folders[0] / COORD_FILE):  # noqa: PTH110
        keys, problems, ignored = _list(root, "", entries)
        if not keys:
            raise DataError(f"{root} has no scenes", hint=_WHAT_IS_A_SCENE, details=shortened(problems))
        return SceneSource(root, [SceneCandidate(key, None) for key in keys], problems, ignored)

    missing = [name for name in ("train", "val") if name not in folders]
    if missing:
        raise DataError(
            f"{root} has a folder {' and '.join(folders)}, but none for {' and '.join(missing)}",
            hint=f"add the folder, or put all scenes straight into {root}: then dbbd makes the splits itself",
        )
    beside, problems, ignored = _list(root, "", [entry for entry in entries if entry.name not in folders])
    if beside:
        raise DataError(
            f"{root} has scenes beside its folders {', '.join(folders)}, such as {printable(beside[0])}",
            hint="put each scene into one of the folders, or take the folders away",
        )
    candidates: list[SceneCandidate] = []
    for split in folders:
        keys, findings, others = _list(root / split, f"{split}/", scan_folder(root / split, setting))
        if not keys:
            raise DataError(f"{root / split} has no scenes", hint=_WHAT_IS_A_SCENE, details=shortened(findings))
        candidates += [SceneCandidate(key, split) for key in keys]
        problems += findings
        ignored += others
    return SceneSource(root, candidates, sorted(problems), ignored)


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


def _list(folder: Path, prefix: str, entries: list[os.DirEntry[str]]) -> tuple[list[str], list[str], int]:
    """The keys of the scenes among the entries of a folder and the problems, both sorted, and how many others."""
    keys: list[str] = []
    problems: list[str] = []
    ignored = 0
    real_folder = Path(os.path.realpath(folder))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            problem, is_scene = _look_at(entry, real_folder)
        except OSError as error:
            problem, is_scene = f"cannot be opened: {why(error)}", False
        if problem:
            problems.append(f"{printable(prefix + entry.name)}: {problem}")
        elif is_scene:
            keys.append(prefix + entry.name)
        else:
            ignored += 1
    return sorted(keys), sorted(problems), ignored


def _look_at(entry: os.DirEntry[str], real_folder: Path) -> tuple[str | None, bool]:
    """Why an entry that looks like a scene cannot be one, if so, and whether it is one."""
    named = entry.name.lower().endswith(SCENE_SUFFIXES)
    if entry.is_symlink():
        target = Path(os.path.realpath(entry.path))
        if target.is_dir():
            return "is a link to a folder, which is not followed", False
        if not named:
            return None, False
        if not target.is_relative_to(real_folder):
            return "is a link out of the folder", False
    if entry.is_dir(follow_symlinks=False):
        with os.scandir(entry.path) as opened:
            inside = list(opened)
        links = [file.name for file in inside if file.is_symlink()]
        if links:
            return f"has a link, {printable(links[0])}, which is not followed", False
        if not Path(entry.path, COORD_FILE).is_file():
            if any(file.name.endswith(".npy") for file in inside):
                return f"is a folder of arrays without {COORD_FILE}", False
            scenes = any(
                file.name.lower().endswith(SCENE_SUFFIXES) or Path(file.path, COORD_FILE).is_file() for file in inside
            )
            return ("is a folder with scenes in it, which is not looked into" if scenes else None), False
    elif not named:
        return None, False
    elif not entry.is_file():
        return "is a link to a missing file" if entry.is_symlink() else "is no regular file", False
    if UNPRINTABLE.search(entry.name):
        return "its name has characters that cannot be shown; rename it, with plain text in UTF-8", False
    return None, True
