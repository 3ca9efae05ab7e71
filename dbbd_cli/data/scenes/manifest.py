"""From a folder of scenes, or from made-up rooms, to a manifest; and from a manifest to prepared scenes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.findings import shortened
from dbbd_cli.data.folder_entries import warn_of_unread
from dbbd_cli.data.manifest import SPLITS, Manifest, Sample, assign_splits
from dbbd_cli.data.scenes.cache import (
    PreparedScene,
    Room,
    SceneRef,
    SceneSettings,
    prepared_scene,
    read_source,
    scene_in_cache,
    stored_tree,
)
from dbbd_cli.data.scenes.reader import scene_digest
from dbbd_cli.data.scenes.scene import COLOR, NORMAL, Scene
from dbbd_cli.data.scenes.sources import choose_scenes, list_scenes, scene_path

_T = TypeVar("_T")
_R = TypeVar("_R")
FOLDER, ROOMS = "scenes", "rooms"
"""What `Manifest.source` says."""
_HINT_BAD_SCENES = "mend or remove them, or leave them out with --set data.on_error=skip"


def make_scene_manifest(
    root: Path,
    *,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    needs_color: bool,
    needs_normals: bool,
    follow_links: Literal["scenes", "all"],
    on_error: Literal["fail", "skip"],
    settings: SceneSettings,
    cache_dir: Path,
    seed: int,
    progress: Progress,
) -> Manifest:
    """Lists a folder, gives every scene its split, and checks each of them, with its tree.

    Scenes that are prepared already are only hashed.

    Args:
        root: the folder.
        shares: shares of train, val and test, where the folder is not divided.
        max_scenes: most scenes of each split; None keeps all.
        needs_color: whether scenes without colors are refused.
        needs_normals: whether scenes with damaged normals are refused; missing ones are estimated.
        follow_links: see `list_scenes`.
        on_error: whether scenes that cannot be used end the run, or are left out.
        settings: how scenes will be prepared.
        cache_dir: folder of the caches.
        seed: seed of the division.
        progress: told of every scene.

    Raises:
        DataError: the folder has too few scenes, or some that cannot be used and `on_error` is `fail`.
    """
    source = list_scenes(root, follow_links=follow_links)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for key, split in choose_scenes(source, shares, seed):
        by_split[split].append(key)
    if source.ignored:
        progress.line(f"Files and folders that are not scenes were ignored: {source.ignored:,}.")
    if source.linked:
        verb = "is a link" if source.linked == 1 else "are links"
        progress.line(f"{counted(source.linked, 'scene')} {verb} to places outside the folder.")
    warn_of_unread(source.unread, "scan", progress)
    needed = {**({COLOR: "color"} if needs_color else {}), **({NORMAL: "normals"} if needs_normals else {})}

    def check(key: str) -> SceneRef:
        path = scene_path(root, key)
        ref = SceneRef(path, scene_digest(path))
        scene: Scene | PreparedScene | None = scene_in_cache(ref, settings, cache_dir)
        if scene is None:
            scene = read_source(ref)
            stored_tree(scene, ref)
        for part, feature in needed.items():
            if part in scene.unusable:
                raise DataError(
                    f"{ref.name}: {printable(scene.unusable[part])}",
                    hint=f"fix or remove the file, or leave {feature} out of data.features",
                )
        if needs_color and scene.color is None:
            raise DataError(f"{ref.name} has no colors, which data.features asks for")
        return ref

    samples: list[Sample] = []
    problems = list(source.problems)
    failure: DataError | None = None
    wanted = {split: min(len(keys), max_scenes.get(split) or len(keys)) for split, keys in by_split.items()}
    with progress.phase("Checking scenes", sum(wanted.values()), unit="scenes") as bar:
        for split, keys in by_split.items():
            rest = iter(keys)
            missing = wanted[split]
            # Where scenes are left out, the next ones by name take their places.
            while missing and (part := list(islice(rest, missing))):
                for key, found in zip(part, _in_threads(check, part), strict=True):
                    if isinstance(found, SceneRef):
                        samples.append(Sample(key, 0, found.sha256, split))
                        missing -= 1
                        bar.advance()
                    else:
                        problems.append(found.message)
                        failure = failure or found
                if on_error == "fail":
                    break
    if problems and on_error == "fail":
        if failure is not None and len(problems) == 1:
            raise failure
        raise DataError(f"{_scenes(len(problems))} of no use", details=shortened(problems), hint=_HINT_BAD_SCENES)
    if problems:
        progress.warn(f"{_scenes(len(problems))} left out; see splits.json of the run.")
    absent = [split for split in ("train", "val") if not any(sample.split == split for sample in samples)]
    if absent:
        raise DataError(
            f"no scene of {root} that can be used is left for {' and '.join(absent)}", details=shortened(problems)
        )
    _warn_of_copies(samples, progress)
    limited = {split: len(keys) for split, keys in by_split.items() if wanted[split] < len(keys)}
    return Manifest(FOLDER, (), (str(root),), tuple(samples), tuple(problems), limited)


def make_room_manifest(
    count: int,
    *,
    num_points: int | None,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    seed: int,
) -> Manifest:
    """The manifest of `count` made-up rooms."""
    keys = [f"room{index:05d}" for index in range(count)]
    splits = assign_splits(keys, [0] * count, keys, ["rooms"], shares, seed)
    left = {split: limit if (limit := max_scenes.get(split)) is not None else count for split in SPLITS}
    samples = []
    for index, (key, split) in enumerate(zip(keys, splits, strict=True)):
        if left[split] > 0:
            left[split] -= 1
            samples.append(Sample(key, 0, Room(seed, index, num_points).sha256, split))
    there = {split: splits.count(split) for split in SPLITS}
    limited = {split: total for split, total in there.items() if (max_scenes.get(split) or total) < total}
    return Manifest(ROOMS, (), (), tuple(samples), limited_from=limited)


def scene_refs(
    manifest: Manifest, split: str, *, root: Path | None, num_points: int | None, seed: int
) -> list[SceneRef]:
    """Where the scenes of a split are.

    Args:
        manifest: the scenes.
        split: train, val or test.
        root: the folder, which may have moved; None for rooms.
        num_points: points of each room; None lets them differ.
        seed: seed of the rooms.

    Raises:
        DataError: the manifest was damaged.
    """
    samples = manifest.of(split)
    if root is not None:
        return [SceneRef(scene_path(root, sample.key), sample.sha256) for sample in samples]
    rooms = [Room(seed, _room_index(sample.key), num_points) for sample in samples]
    if any(room.sha256 != sample.sha256 for room, sample in zip(rooms, samples, strict=True)):
        raise DataError(
            "the rooms of this run were made by another version of the generator",
            hint="use the version of dbbd that made the run (see environment.json), or start a new run",
        )
    return [SceneRef(room, room.sha256) for room in rooms]


def _room_index(key: str) -> int:
    number = key.removeprefix("room")
    if not (number.isascii() and number.isdigit()):
        raise DataError(f"{key!r} is not a synthetic room", hint="splits.json of the run was changed; start a new run")
    return int(number)


def prepare_scenes(refs: Collection[SceneRef], settings: SceneSettings, cache_dir: Path, progress: Progress) -> None:
    """Makes sure that the cache holds the scenes.

    Raises:
        DataError: a scene is gone, has changed or cannot be used, and the cache lacks it.
        DiskError: the cache cannot be written.
    """

    def prepare(ref: SceneRef) -> None:
        prepared_scene(ref, settings, cache_dir)

    with progress.phase("Preparing scenes", len(refs), unit="scenes") as bar:
        for found in _in_threads(prepare, list(refs)):
            if isinstance(found, DataError):
                moved = "if the folder has moved, say where it is with --set data.path=DIR"
                found.hint = f"{found.hint}; {moved}" if found.hint else moved
                raise found
            bar.advance()


def _in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R | DataError]:
    """The result for each item, in order, or the error of the data that it met. NumPy and SciPy release the lock."""

    def guarded(item: _T) -> _R | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        yield from pool.map(guarded, items)


def _scenes(count: int) -> str:
    return "1 scene is" if count == 1 else f"{count:,} scenes are"


def _warn_of_copies(samples: Sequence[Sample], progress: Progress) -> None:
    places: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        places[sample.sha256].append(sample)
    copies = [found for found in places.values() if len({sample.split for sample in found}) > 1]
    if copies:
        examples = "; ".join(" = ".join(f"{s.key} ({s.split})" for s in found[:3]) for found in copies[:3])
        progress.warn(f"{_scenes(len(copies))} in more than one split with the same content: {examples}")
