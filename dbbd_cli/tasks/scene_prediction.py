"""Predict on scenes of any size, and write the results next to all that the source says of each point.

Legend: N points of a scene, M points of a tile with its margin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TypeVar

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.folder_entries import by_suffix
from dbbd_cli.data.inputs import Input
from dbbd_cli.data.scenes.cache import SceneRef, prepare, with_features
from dbbd_cli.data.scenes.formats.mesh import MESH_POINTS
from dbbd_cli.data.scenes.formats.npy import COORD_FILE
from dbbd_cli.data.scenes.manifest import check_parts, required_parts
from dbbd_cli.data.scenes.reader import READERS, Sampling, checked_scene, read_arrays
from dbbd_cli.data.scenes.scene import Scene, SceneArrays
from dbbd_cli.data.scenes.sources import find_scenes, scene_path
from dbbd_cli.data.scenes.thinning import points_on_grid
from dbbd_cli.data.scenes.writing import array_parts, ply_columns, with_results, write_folder, write_npz, write_ply
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.report.save import disk_error
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_prediction_config import ScenePredictionConfig
from dbbd_cli.tasks.scene_workload import SceneWorkload

Arrays = Mapping[str, np.ndarray]
"""Name to a value for each point, `(N, …)`."""

_Prepared = TypeVar("_Prepared")

_MAX_THREADS = 4
"""Tiles that are prepared at once, each with its memory."""
_FEWEST = 16
"""A tile is not cut further if it decides on fewer points than `max_points` divided by this."""


@dataclass(frozen=True, eq=False)
class ScenePredictionResult:
    """What is written for a scene.

    Attributes:
        arrays: further arrays of `.npz` and `.npy`, such as `segment`.
        columns: further properties of the PLY file, `(N,)` each.
        color: colors of the PLY file, `(N, 3)` uint8; None: those of the source.
    """

    arrays: Arrays
    columns: Arrays = field(default_factory=dict)
    color: np.ndarray | None = None


def predict_scenes(
    inputs: Iterable[Input],
    predict: Callable[[Scene, SceneRef], ScenePredictionResult],
    *,
    settings: ScenePredictionConfig,
    out: OutputFolder,
    suffix: str,
    mesh_points: int = MESH_POINTS,
    progress: Progress,
) -> Iterator[FilePrediction]:
    """Predict on the scenes of inputs, one after the other, and write the results.

    Args:
        inputs: files, folders of arrays, and folders of these, which are searched with their subfolders.
        predict: computes the results of a scene; a DataError skips the scene.
        settings: what to write.
        out: where to write it.
        suffix: what is added to the name of a scene, such as `-features`.
        mesh_points: number of points that are sampled from a mesh.
        progress: receives messages.

    Raises:
        DiskError: a file cannot be written.
    """
    items = [item for given in inputs for item in _items(given, out, progress)]
    sources = {os.path.realpath(item[0]) for item in items if not isinstance(item, FilePrediction)}
    for item in items:
        if isinstance(item, FilePrediction):
            yield item
            continue
        path, name = item
        start = time.monotonic()
        try:
            targets = _targets(out.claim(name + suffix), settings.formats, sources)
            arrays = read_arrays(path, Sampling(mesh_points=mesh_points))
            scene = checked_scene(path, arrays)
            _write(targets, path, arrays, predict(scene, SceneRef(path, "")))
        except DataError as error:
            yield _skipped(str(path), error.message.removeprefix(printable(str(path))).lstrip(": "))
            continue
        seconds = time.monotonic() - start
        files = tuple(str(target) for target in targets.values())
        yield FilePrediction(str(path), "written", num_points=len(arrays.coord), seconds=seconds, files=files)


def infer_scene(
    workload: SceneWorkload,
    scene: Scene,
    ref: SceneRef,
    infer: Callable[[PointBatch], Arrays],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Compute values for each point of a scene, prepared as those that a run was trained on; see `infer_in_tiles`.

    Args:
        workload: of the run; `predict` of its configuration says how large scenes are cut.
        scene: the scene.
        ref: where it comes from, for messages.
        infer: computes values for the points of a scene, or of a tile.
        progress: shows which tile is being computed.

    Raises:
        DataError: the scene lacks something that the run requires.
    """
    settings, features = workload.config.predict, workload.data.all_features
    check_parts(scene, required_parts("color" in features, "normals" in features), ref)
    if "normals" not in features and scene.normal is None:
        # Any will do: to estimate some that nothing uses would take a sixth of the time.
        scene = replace(scene, normal=np.tile(np.array([0, 0, 1], np.float32), (scene.num_points, 1)))
    dataset = workload.dataset([], point_samples=None)

    def advance(done: int, total: int) -> None:
        progress.line(f"{ref.name}: tile {done + 1:,} of {total:,}")

    def of_all_points(thinned: Scene) -> dict[str, np.ndarray]:
        if thinned.num_points > settings.max_points and dataset.settings.geometry:
            progress.line(f"{ref.name}: geometry of {thinned.num_points:,} points")
        return infer_in_tiles(
            with_features(thinned, ref, dataset.settings),
            lambda part: prepare(part, ref, dataset.settings),
            lambda prepared: infer(dataset.batch([prepared])),
            max_points=settings.max_points,
            margin=settings.margin,
            advance=advance,
        )

    grid_size = workload.data.grid_size
    return of_all_points(scene) if grid_size is None else _from_grid(scene, of_all_points, grid_size)


def _items(given: Input, out: OutputFolder, progress: Progress) -> Iterator[tuple[Path, str] | FilePrediction]:
    """The scenes of an input, each with the name of its results; and what should be one, but is not."""
    if given.problem or given.path is None:
        yield _skipped(given.name, given.problem or "there is no such file or folder; this run takes scenes")
    elif given.path.is_dir() and not os.path.lexists(given.path / COORD_FILE):
        yield from _in_folder(given.path, out, progress)
    elif given.path.is_dir() or given.path.suffix.lower() in READERS:
        yield given.path, _stem(Path(os.path.realpath(given.path)).name if not given.path.name else given.path.name)
    else:
        formats = ", ".join(READERS)
        yield _skipped(given.name, f"is not a scene; a scene is a file {formats}, or a folder with {COORD_FILE}")


def _in_folder(folder: Path, out: OutputFolder, progress: Progress) -> Iterator[tuple[Path, str] | FilePrediction]:
    try:
        source = find_scenes(folder)
    except DataError as error:
        yield _skipped(str(folder), error.message)
        return
    results = Path(os.path.realpath(out.path))
    if results == Path(os.path.realpath(folder)):
        yield _skipped(str(folder), "is also the folder for the results, which would be taken for scenes")
        return
    found = False
    for candidate in source.candidates:
        path = scene_path(folder, candidate.key)
        if not Path(os.path.realpath(path)).is_relative_to(results):
            found = True
            yield path, str(PurePath(candidate.key).with_name(_stem(PurePath(candidate.key).name)))
    yield from (_skipped(str(folder), problem) for problem in source.problems)
    if source.unread:
        number = counted(sum(source.unread.values()), "scan")
        yield _skipped(str(folder), f"{number} in unsupported formats: {by_suffix(source.unread)}")
    elif not found and not source.problems:
        only_results = "has no scenes but those in the folder for the results; write them elsewhere with --out"
        yield _skipped(str(folder), only_results if source.candidates else "contains no scenes")
    if source.ignored:
        progress.line(f"Files in {printable(str(folder))} that are not scenes were ignored: {source.ignored:,}.")


def _stem(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix}".lower() in READERS else name


def _skipped(name: str, reason: str) -> FilePrediction:
    return FilePrediction(name, "skipped", note=reason)


def _targets(base: Path, formats: Iterable[str], sources: set[str]) -> dict[str, Path]:
    """The path of each format.

    Raises:
        DataError: it is one of the sources.
    """
    targets = {kind: base if kind == "npy" else base.with_name(f"{base.name}.{kind}") for kind in formats}
    for target in targets.values():
        if os.path.realpath(target) in sources:
            raise DataError(f"its result would replace {printable(str(target))}, which is an input")
    return targets


def _write(targets: Mapping[str, Path], source: Path, arrays: SceneArrays, result: ScenePredictionResult) -> None:
    """Write the results in all formats.

    Raises:
        DataError: the source has changed since it was read.
        DiskError: a file cannot be written.
    """
    try:
        columns = ply_columns(source, arrays) if "ply" in targets else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(str(source))}: {error}") from error
    parts = {**array_parts(arrays), **result.arrays} if targets.keys() & {"npz", "npy"} else {}
    for kind, target in targets.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "ply":
                write_ply(target, with_results(columns, result.columns, result.color))
            elif kind == "npz":
                write_npz(target, parts)
            else:
                write_folder(target, parts)
        except OSError as error:
            raise disk_error(target, error) from error


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of a scene.

    Attributes:
        points: its points, ascending, `(M,)`.
        decides: those of `points` that no other tile decides on, `(M,)` bool.
    """

    points: np.ndarray
    decides: np.ndarray


def infer_in_tiles(
    scene: Scene,
    prepare: Callable[[Scene], _Prepared],
    infer: Callable[[_Prepared], Arrays],
    *,
    max_points: int,
    margin: float,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, np.ndarray]:
    """Compute values for each point of a scene, tile by tile if it is large.

    Each tile is a scene of its own, cut out of the other with a margin; its heights, properties and geometry are still
    those in the whole scene. For each point the tile counts in which the point lies farthest from the edge.

    Args:
        scene: the scene.
        prepare: prepares a scene; called in several threads, for as many tiles at once as there are processors, up to
            `_MAX_THREADS`.
        infer: computes values for the points of a prepared scene.
        max_points: points of a scene beyond which it is cut.
        margin: see `make_tiles`.
        advance: told the number of tiles that are done, and of all.

    Returns:
        The values by name, in the order of the points.
    """
    if scene.num_points <= max_points:
        return dict(infer(prepare(scene)))
    joined: dict[str, np.ndarray] = {}
    tiles = make_tiles(scene.coord, max_points, margin)
    # A few tiles are prepared together, and then the network has all processors for itself: PyTorch's threads wait for
    # each other in busy loops, which other work would make very long.
    together = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(together) as pool:
        for start in range(0, len(tiles), together):
            group = tiles[start : start + together]
            advance(start, len(tiles))
            prepared = list(pool.map(lambda tile: prepare(_cut(scene, tile.points)), group))
            while prepared:
                tile, values_of = group[-len(prepared)], infer(prepared.pop(0))
                for name, values in values_of.items():
                    if name not in joined:
                        joined[name] = np.empty((scene.num_points, *values.shape[1:]), values.dtype)
                    joined[name][tile.points[tile.decides]] = values[tile.decides]
    return joined


def _from_grid(scene: Scene, infer: Callable[[Scene], Arrays], grid_size: float) -> dict[str, np.ndarray]:
    """The values that `infer` computes for the scene thinned to a grid, as the network was trained.

    Each point has those of the nearest one that stayed.
    """
    from scipy.spatial import cKDTree  # slow to import

    try:
        stays = points_on_grid(scene.coord + scene.shift, grid_size)
    except ValueError as error:
        raise DataError(str(error)) from error
    found = infer(_cut(scene, stays, lowest=float(scene.coord[stays, 2].min())))
    nearest = cKDTree(scene.coord[stays]).query(scene.coord, workers=-1)[1]
    return {name: values[nearest] for name, values in found.items()}


def make_tiles(coord: np.ndarray, max_points: int, margin: float) -> list[Tile]:
    """Cut a scene into overlapping vertical columns of at most `max_points` points.

    The scene is halved at the median of its longer horizontal side, and so are the halves, until each fits with its
    margin. As neighbors reach equally far across their common edge, the point lies farthest from the edge in that half
    to which it belongs.

    Args:
        coord: `(N, 3)`.
        max_points: only points at one place, or margins much denser than their tile, can exceed this.
        margin: how far a tile reaches beyond the points that it decides on, as a fraction of their extent.
    """
    flat = np.ascontiguousarray(coord[:, :2].T)
    tiles = []
    everything = np.arange(len(coord))
    waiting = [(everything, np.ones(len(coord), dtype=bool))]
    while waiting:
        points, decides = waiting.pop()
        own = points[decides]
        low, high = flat[:, own].min(axis=1), flat[:, own].max(axis=1)
        reach = margin * (high - low)
        inside = np.ones(len(points), dtype=bool)
        for axis in range(2):
            values = flat[axis, points]
            inside &= (values >= low[axis] - reach[axis]) & (values <= high[axis] + reach[axis])
        points, decides = points[inside], decides[inside]
        halves = None
        if len(points) > max_points and len(own) > max_points // _FEWEST:
            halves = _halved(flat, points, decides, high - low)
        if halves is None:
            tiles.append(Tile(points, decides))
        else:
            waiting += [(points, half) for half in halves]
    return tiles


def _halved(
    flat: np.ndarray, points: np.ndarray, decides: np.ndarray, extent: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The two halves of what a tile decides on, cut across its longer side; None if all points are at one place."""
    for axis in np.argsort(-extent):
        values = flat[axis, points]
        own = values[decides]
        edge = np.median(own)
        if edge == own.min():  # half of the points are at the lowest value
            edge = own[own > edge].min(initial=np.inf)
        below = decides & (values < edge)
        if below.any() and (decides & ~below).any():
            return below, decides & ~below
    return None


def _cut(scene: Scene, points: np.ndarray, *, lowest: float = 0.0) -> Scene:
    """Some points as a scene of their own, with its own center, heights above `lowest`, and no region tree."""
    coord = scene.coord[points]
    low, high = coord.min(axis=0), coord.max(axis=0)
    shift = np.array([*((low + high) / 2)[:2], lowest], dtype=np.float32)
    return replace(
        scene,
        coord=coord - shift,
        shift=scene.shift + shift,
        normal=None if scene.normal is None else scene.normal[points],
        color=None if scene.color is None else scene.color[points],
        segment=None if scene.segment is None else scene.segment[points],
        hierarchy=None,
        properties={name: values[points] for name, values in scene.properties.items()},
        geometry=None if scene.geometry is None else scene.geometry[points],
    )
