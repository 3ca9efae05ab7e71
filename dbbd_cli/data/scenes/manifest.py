"""Make the manifest of a folder of scenes or of synthetic rooms, and prepare the scenes of a manifest."""

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
from dbbd_cli.data.folder_entries import warn_of_unread
from dbbd_cli.data.manifest import SPLITS, Manifest, Sample
from dbbd_cli.data.problems import shortened
from dbbd_cli.data.scenes.cache import (
    PreparedScene,
    Room,
    SceneRef,
    SceneSettings,
    prepared_scene,
    read_source,
    scene_in_cache,
    stored_tree,
    wanted_properties,
)
from dbbd_cli.data.scenes.reader import scene_digest
from dbbd_cli.data.scenes.scene import COLOR, NORMAL, Scene
from dbbd_cli.data.scenes.sources import FollowLinks, SceneSource, choose_scenes, list_scenes, scene_path
from dbbd_cli.data.splitting import assign_splits

_T = TypeVar("_T")
_R = TypeVar("_R")
FOLDER, ROOMS = "scenes", "rooms"
"""Values of `Manifest.source`."""


def make_scene_manifest(
    root: Path,
    *,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    needs_color: bool,
    needs_normals: bool,
    follow_links: FollowLinks,
    on_error: Literal["fail", "skip"],
    settings: SceneSettings,
    cache_dir: Path,
    seed: int,
    progress: Progress,
) -> Manifest:
    """List a folder, assign every scene to a split, and check each scene with its tree.

    Scenes in the cache are only hashed.

    Args:
        root: the folder.
        shares: fractions of train, val and test if the folder is not divided.
        max_scenes: maximum scenes of each split; None keeps all.
        needs_color: whether to refuse scenes without colors.
        needs_normals: whether to refuse scenes with damaged normals; missing ones are estimated.
        follow_links: see `list_scenes`.
        on_error: whether unusable scenes end the run, or are left out.
        settings: how scenes will be prepared.
        cache_dir: folder of the caches.
        seed: seed of the division.
        progress: shows a bar, and warnings.

    Raises:
        DataError: the folder has too few scenes, or unusable ones and `on_error` is `fail`.
    """
    source = list_scenes(root, follow_links=follow_links)
    _report_other_files(source, progress)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for key, split in choose_scenes(source, shares, seed):
        by_split[split].append(key)
    wanted = {split: min(len(keys), max_scenes.get(split) or len(keys)) for split, keys in by_split.items()}
    required = required_parts(needs_color, needs_normals)

    def check(key: str) -> str:
        return _checked_digest(scene_path(root, key), required, settings, cache_dir)

    samples, errors = _check_scenes(by_split, wanted, check, replace_bad=on_error == "skip", progress=progress)
    problems = [*source.problems, *(error.message for error in errors)]
    if problems and on_error == "fail":
        raise _unusable(problems, errors)
    if problems:
        progress.warn(f"{counted(len(problems), 'scene')} skipped; see splits.json of the run for the reasons.")
    if absent := [split for split in ("train", "val") if not any(sample.split == split for sample in samples)]:
        raise DataError(f"{root} has no usable scenes left for {' and '.join(absent)}", details=shortened(problems))
    _warn_of_copies(samples, progress)
    limited = {split: len(keys) for split, keys in by_split.items() if wanted[split] < len(keys)}
    return Manifest(FOLDER, (), (str(root),), tuple(samples), tuple(problems), limited)


def required_parts(needs_color: bool, needs_normals: bool) -> dict[str, str]:
    """The parts that scenes must have, to their names in `data.features`."""
    return {**({COLOR: "color"} if needs_color else {}), **({NORMAL: "normals"} if needs_normals else {})}


def chosen_scenes(
    root: Path,
    *,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    follow_links: FollowLinks,
    seed: int,
    progress: Progress,
) -> tuple[list[Path], list[str]]:
    """List the scenes of a folder that a run uses if all of them can be used; for the arguments, see above.

    Returns:
        Their paths, and entries that should be scenes but are not, with the reason.
    """
    source = list_scenes(root, follow_links=follow_links)
    _report_other_files(source, progress)
    left = {split: max_scenes.get(split) for split in SPLITS}
    paths = []
    for key, split in choose_scenes(source, shares, seed):
        limit = left[split]
        if limit is None or limit > 0:
            left[split] = None if limit is None else limit - 1
            paths.append(scene_path(root, key))
    return paths, source.problems


def _check_scenes(
    by_split: Mapping[str, Sequence[str]],
    wanted: Mapping[str, int],
    check: Callable[[str], str],
    *,
    replace_bad: bool,
    progress: Progress,
) -> tuple[list[Sample], list[DataError]]:
    """Check the first scenes of each split, in threads.

    Args:
        by_split: keys of the scenes of each split.
        wanted: number of scenes to check in each split.
        check: gives the digest of a scene, or raises DataError.
        replace_bad: whether to check further scenes of the split in place of those with errors.
        progress: shows a bar.
    """
    samples: list[Sample] = []
    errors: list[DataError] = []
    with progress.phase("Checking scenes", sum(wanted.values()), unit="scenes") as bar:
        for split, keys in by_split.items():
            remaining = iter(keys)
            missing = wanted[split]
            while missing and (batch := list(islice(remaining, missing))):
                for key, found in zip(batch, _in_threads(check, batch), strict=True):
                    if isinstance(found, DataError):
                        errors.append(found)
                    else:
                        samples.append(Sample(key, 0, found, split))
                        missing -= 1
                        bar.advance()
                if not replace_bad:
                    break
    return samples, errors


def _unusable(problems: Sequence[str], errors: Sequence[DataError]) -> DataError:
    """The error for scenes that cannot be used; a single one has its own hint."""
    if errors and len(problems) == 1:
        return errors[0]
    return DataError(
        f"{_scenes(len(problems))} unusable",
        details=shortened(problems),
        hint="fix or remove them, or leave them out with --set data.on_error=skip",
    )


def _report_other_files(source: SceneSource, progress: Progress) -> None:
    if source.ignored:
        progress.line(f"Files and folders that are not scenes were ignored: {source.ignored:,}.")
    if source.linked:
        verb = "is a link" if source.linked == 1 else "are links"
        progress.line(f"{counted(source.linked, 'scene')} {verb} to places outside the folder.")
    warn_of_unread(source.unread, "scan", progress)


def _checked_digest(path: Path, required: Mapping[str, str], settings: SceneSettings, cache_dir: Path) -> str:
    """The digest of a scene, after checking that the scene can be used.

    Args:
        path: the file or folder.
        required: parts that must not be damaged, to their names in `data.features`; colors must not be missing either.
        settings: how it will be prepared.
        cache_dir: folder of the caches.

    Raises:
        DataError: it cannot be used.
    """
    ref = SceneRef(path, scene_digest(path))
    scene: Scene | PreparedScene | None = scene_in_cache(ref, settings, cache_dir)
    if scene is None:
        scene = read_source(ref, settings.sampling)
        stored_tree(scene, ref)
        wanted_properties(scene, settings.properties, ref)
    check_parts(scene, required, ref)
    return ref.sha256


def check_parts(scene: Scene | PreparedScene, required: Mapping[str, str], ref: SceneRef) -> None:
    """Check that a scene has usable parts.

    Args:
        scene: the scene.
        required: parts that must not be damaged, to their names in `data.features`; colors must not be missing either.
        ref: its source.

    Raises:
        DataError: a part cannot be used.
    """
    for part, feature in required.items():
        if part in scene.unusable:
            raise DataError(
                f"{ref.name}: {printable(scene.unusable[part])}",
                hint=f"fix or remove the file, or leave {feature} out of data.features",
            )
    if COLOR in required and scene.color is None:
        raise DataError(f"{ref.name} has no colors, which data.features requires")


def make_room_manifest(
    count: int,
    *,
    num_points: int | None,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    seed: int,
) -> Manifest:
    """Make the manifest of `count` synthetic rooms; for the arguments, see `make_scene_manifest`."""
    keys = [f"room{index:05d}" for index in range(count)]
    splits = assign_splits(keys, [0] * count, keys, ["rooms"], shares, seed)
    left = {split: limit if (limit := max_scenes.get(split)) is not None else count for split in SPLITS}
    samples = []
    for index, (key, split) in enumerate(zip(keys, splits, strict=True)):
        if left[split] > 0:
            left[split] -= 1
            samples.append(Sample(key, 0, Room(seed, index, num_points).sha256, split))
    totals = {split: splits.count(split) for split in SPLITS}
    limited = {split: total for split, total in totals.items() if (max_scenes.get(split) or total) < total}
    return Manifest(ROOMS, (), (), tuple(samples), limited_from=limited)


def room_sources(
    count: int,
    *,
    num_points: int | None,
    shares: Sequence[float],
    max_scenes: Mapping[str, int | None],
    seed: int,
) -> list[Room]:
    """The synthetic rooms that a run uses; for the arguments, see `make_room_manifest`."""
    manifest = make_room_manifest(count, num_points=num_points, shares=shares, max_scenes=max_scenes, seed=seed)
    return [Room(seed, _room_index(sample.key), num_points) for sample in manifest.samples]


def scene_refs(
    manifest: Manifest, split: str, *, root: Path | None, num_points: int | None, seed: int
) -> list[SceneRef]:
    """References to the scenes of a split.

    Args:
        manifest: the manifest.
        split: train, val or test.
        root: the folder, which may have moved; None for rooms.
        num_points: points of each room; None: random.
        seed: seed of the rooms.

    Raises:
        DataError: the manifest is damaged, or its rooms are from another version of the generator.
    """
    samples = manifest.of(split)
    if root is not None:
        return [SceneRef(scene_path(root, sample.key), sample.sha256) for sample in samples]
    rooms = [Room(seed, _room_index(sample.key), num_points) for sample in samples]
    if any(room.sha256 != sample.sha256 for room, sample in zip(rooms, samples, strict=True)):
        raise DataError(
            "the rooms of this run are from another version of the generator",
            hint="use the version of dbbd that started the run (see environment.json), or start a new run",
        )
    return [SceneRef(room, room.sha256) for room in rooms]


def _room_index(key: str) -> int:
    number = key.removeprefix("room")
    if not (number.isascii() and number.isdigit()):
        raise DataError(f"{key!r} is not a synthetic room", hint="splits.json of the run was edited; start a new run")
    return int(number)


def prepare_scenes(refs: Collection[SceneRef], settings: SceneSettings, cache_dir: Path, progress: Progress) -> None:
    """Prepare the scenes that the cache does not contain.

    Raises:
        DataError: a scene is missing, has changed or cannot be used, and is not in the cache.
        DiskError: the cache cannot be written.
    """

    def prepare(ref: SceneRef) -> None:
        prepared_scene(ref, settings, cache_dir)

    with progress.phase("Preparing scenes", len(refs), unit="scenes") as bar:
        for found in _in_threads(prepare, list(refs)):
            if isinstance(found, DataError):
                moved = "if the folder has moved, set its new path with --set data.path=DIR"
                found.hint = f"{found.hint}; {moved}" if found.hint else moved
                raise found
            bar.advance()


def _in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R | DataError]:
    """The result or the DataError of each item, in order. Threads suffice, because NumPy and SciPy release the GIL."""

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
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_content[sample.sha256].append(sample)
    copies = [found for found in by_content.values() if len({sample.split for sample in found}) > 1]
    if copies:
        examples = "; ".join(" = ".join(f"{s.key} ({s.split})" for s in found[:3]) for found in copies[:3])
        progress.warn(f"{_scenes(len(copies))} in more than one split with the same content: {examples}")
