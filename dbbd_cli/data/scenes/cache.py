"""Prepare scenes for training, with normals and region tree, and cache them as arrays that are mapped into memory.

The key of a prepared scene is the hash of its source and of the settings that it was prepared with, so that neither the
second epoch nor the next run reads a scene file, estimates normals or builds a tree again.

Legend: N points of a scene.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import printable
from dbbd_cli.data.array_cache import SUFFIX, Arrays, cached_arrays, read_arrays
from dbbd_cli.data.scenes.formats.mesh import MESH_POINTS
from dbbd_cli.data.scenes.formats.names import simplified
from dbbd_cli.data.scenes.geometry import geometry_features
from dbbd_cli.data.scenes.normals import complete_normals, estimate_normals
from dbbd_cli.data.scenes.reader import EVERY_POINT, Sampling, read_scene, scene_digest
from dbbd_cli.data.scenes.scene import Scene
from dbbd_cli.data.scenes.synthetic_rooms.generator import GENERATOR_VERSION, generate_room
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import RegionTree, cut_tree

_VERSION = 6
"""Increase this when the same source and settings give different arrays."""
_NOTES = "notes"
"""Name of the array that holds everything else as the bytes of a JSON object."""
_GEOMETRY = "geometry"
_FARTHEST = 5.0
"""Standard deviations at which a property is cut off."""
_CONSTANT = 1e-6
"""Standard deviation of a constant property, at most, relative to its mean."""
_TREE = ("parent", "level", "center_idx", "indices", "indices_ptr")


@dataclass(frozen=True)
class SceneSettings:
    """How scenes are prepared.

    Attributes:
        normal_neighbors: nearest points that a missing normal is estimated from.
        max_depth: maximum level of the tree; deeper stored trees are cut.
        min_region_points: regions with fewer than twice this many points are not divided.
        geometry: whether to compute geometry features.
        properties: other numbers of each point to keep, by name.
        grid_size: side of the cells of a grid of which one point each is read; None: all points are.
        mesh_points: number of points that are sampled from a mesh.
    """

    normal_neighbors: int
    max_depth: int
    min_region_points: int
    geometry: bool = False
    properties: tuple[str, ...] = ()
    grid_size: float | None = None
    mesh_points: int = MESH_POINTS

    @property
    def sampling(self) -> Sampling:
        """Which points are read."""
        return Sampling(self.grid_size, self.mesh_points)


@dataclass(frozen=True)
class Room:
    """A synthetic room: the arguments of `generate_room`."""

    seed: int
    index: int
    num_points: int | None

    @property
    def sha256(self) -> str:
        """Stands for the hash of its content."""
        return hashlib.sha256(json.dumps([GENERATOR_VERSION, *asdict(self).values()]).encode()).hexdigest()


@dataclass(frozen=True)
class SceneRef:
    """A reference to a scene: its source, and the hash of its content."""

    source: Path | Room
    sha256: str

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"room {self.source.index}" if isinstance(self.source, Room) else printable(str(self.source))


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """A scene with everything that a batch needs.

    Attributes:
        coord: `(N, 3)` float32.
        normal: `(N, 3)` float32.
        color: `(N, 3)` uint8, or None.
        segment: `(N,)` int32, -1 if the class is unknown, or None.
        geometry: `(N, 29)` float16, see `geometry_features`; or None.
        properties: `(N, P)` float32, the wanted properties in their order, standardized; or None.
        tree: the region tree.
        reserved_label: the label in `segment` that means "ignore" by convention, or None; see `Scene`.
        unusable: parts of the source that cannot be used, and why; see `Scene`.
    """

    coord: np.ndarray
    normal: np.ndarray
    color: np.ndarray | None
    segment: np.ndarray | None
    geometry: np.ndarray | None
    properties: np.ndarray | None
    tree: RegionTree
    reserved_label: int | None
    unusable: Mapping[str, str]

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.coord)


def read_source(ref: SceneRef, sampling: Sampling = EVERY_POINT) -> Scene:
    """Read or generate the scene, with all its labels; all points of a room, whatever `sampling` says.

    Raises:
        DataError: the file cannot be read, or is not a scene; the message says why.
    """
    if isinstance(ref.source, Room):
        return generate_room(ref.source.seed, ref.source.index, ref.source.num_points)
    return read_scene(ref.source, keep_reserved_label=True, sampling=sampling)


def stored_tree(scene: Scene, ref: SceneRef) -> RegionTree | None:
    """The region tree in the file of a scene, checked; None if there is none.

    Raises:
        DataError: the tree is invalid; the message names the file and the region.
    """
    return None if scene.hierarchy is None else tree_from_nested(scene.hierarchy, scene.num_points, ref.name)


def wanted_properties(scene: Scene, names: Sequence[str], ref: SceneRef) -> np.ndarray:
    """The properties of these names, `(N, P)` float32, each with mean 0 and standard deviation 1, within ± 5.

    They are standardized within the scene, because sensors have scales of their own.

    Raises:
        DataError: a property is missing, or not finite; the message names the file and the properties there are.
    """
    if not names:
        return np.empty((scene.num_points, 0), np.float32)
    found: dict[str, np.ndarray] = {}
    for name, column in scene.properties.items():
        found.setdefault(simplified(name), column)
    columns = []
    for name in names:
        values = found.get(simplified(name))
        if values is None:
            there = ", ".join(map(printable, scene.properties)) or "none"
            raise DataError(
                f"{ref.name} has no property {name!r}, which data.features requires; it has: {there}",
                hint="leave it out of data.features, or fix or remove the file",
            )
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise DataError(
                f"{ref.name}: its property {name!r} is not finite at point {np.flatnonzero(~np.isfinite(values))[0]:,}",
                hint="leave it out of data.features, or fix or remove the file",
            )
        values = np.ldexp(values, -np.frexp(np.abs(values).max())[1])  # exact; the squares of huge values overflow
        mean, deviation = values.mean(), values.std()
        # The rounding errors of a constant property must not become a feature.
        is_constant = deviation <= _CONSTANT * abs(mean)
        standardized = np.zeros_like(values) if is_constant else (values - mean) / deviation
        columns.append(np.clip(standardized, -_FARTHEST, _FARTHEST))
    return np.stack(columns, axis=1).astype(np.float32)


def prepared_scene(ref: SceneRef, settings: SceneSettings, cache_dir: Path, *, num_threads: int = -1) -> PreparedScene:
    """The scene, prepared now, with this number of threads (-1: one for each processor), unless the cache holds it.

    Raises:
        DataError: the file is missing, is not a scene, or has changed since `ref` was made.
        DiskError: the cache cannot be written.
    """
    return _from_arrays(
        cached_arrays(_path(ref, settings, cache_dir), lambda: _make(ref, settings, num_threads), _is_whole)
    )


def scene_in_cache(ref: SceneRef, settings: SceneSettings, cache_dir: Path) -> PreparedScene | None:
    """The scene if the cache holds it, otherwise None."""
    arrays = read_arrays(_path(ref, settings, cache_dir), _is_whole)
    return None if arrays is None else _from_arrays(arrays)


def scene_geometry(ref: SceneRef, settings: SceneSettings, cache_dir: Path) -> np.ndarray:
    """The geometry features of a scene, `(N, 29)` float16, even if `settings` does not ask for them; see `geometry`.

    Raises:
        DataError: see `prepared_scene`.
        DiskError: the cache cannot be written.
    """
    if settings.geometry:
        geometry = prepared_scene(ref, settings, cache_dir).geometry
        assert geometry is not None
        return geometry
    key = json.dumps([_VERSION, ref.sha256, asdict(settings.sampling)])
    path = cache_dir / f"geometry-{hashlib.sha256(key.encode()).hexdigest()[:32]}{SUFFIX}"

    def make() -> Arrays:
        return {_GEOMETRY: geometry_features(prepared_scene(ref, settings, cache_dir).coord, num_threads=-1)}

    return cached_arrays(path, make, lambda arrays: _GEOMETRY in arrays)[_GEOMETRY]


def _path(ref: SceneRef, settings: SceneSettings, cache_dir: Path) -> Path:
    key = hashlib.sha256(json.dumps([_VERSION, ref.sha256, asdict(settings)]).encode()).hexdigest()[:32]
    return cache_dir / f"scene-{key}{SUFFIX}"


def _make(ref: SceneRef, settings: SceneSettings, num_threads: int) -> Arrays:
    if isinstance(ref.source, Path) and scene_digest(ref.source) != ref.sha256:
        raise DataError(
            f"{ref.name} has changed since the run started",
            hint="restore the original file, or start a new run",
        )
    scene = with_features(read_source(ref, settings.sampling), ref, settings, num_threads=num_threads)
    return _prepared_arrays(scene, ref, settings, num_threads)


def prepare(scene: Scene, ref: SceneRef, settings: SceneSettings) -> PreparedScene:
    """Prepare a scene without the cache.

    Args:
        scene: the scene, or a part of it, with the features of `with_features`.
        ref: where it comes from, for messages.
        settings: how to prepare it.

    Raises:
        DataError: its region tree is invalid.
    """
    return _from_arrays(_prepared_arrays(scene, ref, settings, num_threads=-1))


def with_features(scene: Scene, ref: SceneRef, settings: SceneSettings, *, num_threads: int = -1) -> Scene:
    """The scene with its geometry, if wanted, and of its properties those that are wanted; see `wanted_properties`.

    Both depend on the scene as a whole, so that they are computed before it is cut.
    """
    columns = wanted_properties(scene, settings.properties, ref)
    return replace(
        scene,
        properties=dict(zip(settings.properties, columns.T, strict=True)),
        geometry=geometry_features(scene.coord, num_threads=num_threads) if settings.geometry else None,
    )


def _prepared_arrays(scene: Scene, ref: SceneRef, settings: SceneSettings, num_threads: int) -> Arrays:
    tree = stored_tree(scene, ref)
    if tree is None:
        tree = build_tree(scene.coord, max_depth=settings.max_depth, min_region_points=settings.min_region_points)
    normal = scene.normal
    if normal is None:
        normal = estimate_normals(scene.coord, num_neighbors=settings.normal_neighbors, num_threads=num_threads)
    else:
        normal = complete_normals(scene.coord, normal, num_neighbors=settings.normal_neighbors, num_threads=num_threads)
    arrays = {"coord": scene.coord, "normal": normal, **vars(cut_tree(tree, settings.max_depth))}
    if scene.geometry is not None:
        arrays[_GEOMETRY] = scene.geometry
    if settings.properties:
        arrays["properties"] = np.stack([scene.properties[name] for name in settings.properties], axis=1)
    notes = json.dumps({"reserved_label": scene.reserved_label, "unusable": dict(scene.unusable)})
    arrays[_NOTES] = np.frombuffer(notes.encode(), np.uint8)
    if scene.color is not None:
        arrays["color"] = np.rint(scene.color * 255).astype(np.uint8)
    if scene.segment is not None:
        arrays["segment"] = scene.segment.astype(np.int32)
    return arrays


def _is_whole(arrays: Arrays) -> bool:
    return {"coord", "normal", _NOTES, *_TREE} <= arrays.keys()


def _from_arrays(arrays: Arrays) -> PreparedScene:
    return PreparedScene(
        coord=arrays["coord"],
        normal=arrays["normal"],
        color=arrays.get("color"),
        segment=arrays.get("segment"),
        geometry=arrays.get(_GEOMETRY),
        properties=arrays.get("properties"),
        tree=RegionTree(**{name: arrays[name] for name in _TREE}),
        **json.loads(arrays[_NOTES].tobytes()),
    )
