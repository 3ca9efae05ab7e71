"""Readers of scenes: PLY, pickles, arrays, folders, trees, and the scene cache. N: points of a scene."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import scene_seeds as seeds
from reader import Reader, require, write_once
from readers import SCENE_SUFFIXES

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.array_cache import read_arrays
from dbbd_cli.data.scenes.cache import SceneRef, stored_tree
from dbbd_cli.data.scenes.formats.numpy_files import npz_names, read_npy, read_npz
from dbbd_cli.data.scenes.formats.ply import read_vertices
from dbbd_cli.data.scenes.pickles.arrays import load_plain
from dbbd_cli.data.scenes.pickles.machine import RefusedPickleError, StandIn, Unbuilt
from dbbd_cli.data.scenes.reader import Sampling, read_scene
from dbbd_cli.data.scenes.scene import Scene
from dbbd_cli.data.scenes.trees.nested import tree_from_nested
from dbbd_cli.data.scenes.trees.region_tree import MAX_LEVEL, RegionTree

MOST = 1000
NAMES = ("coord", "normal", "color", "segment")
_PLAIN = (str, int, float, bytes, bytearray, bool, type(None), np.generic, np.dtype, StandIn, Unbuilt)


def ply(data: bytes, folder: Path) -> None:
    columns = read_vertices(write_once(folder / "a.ply", data), MOST)
    require(columns and len({len(column) for column in columns.values()}) == 1, "columns differ in length")
    for column in columns.values():
        check_numbers(column, MOST)
        require(column.ndim == 1 and column.dtype.isnative, "a column is not a row of native numbers")


def npy(data: bytes, folder: Path) -> None:
    check_numbers(read_npy(write_once(folder / "a.npy", data), MOST), MOST)


def npz(data: bytes, folder: Path) -> None:
    path = write_once(folder / "a.npz", data)
    for name in set(npz_names(path)) & set(NAMES):
        check_numbers(read_npz(path, name, MOST), MOST)


def check_numbers(array: Any, most: int) -> None:
    require(type(array) is np.ndarray and array.dtype.kind in "biuf", "not an array of numbers")
    require(array.size <= most, "it has more values than are allowed")
    array.tobytes()  # reads every byte


def pickled(data: bytes, _: Path) -> None:
    waiting, seen = [load_plain(data)], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in (dict, OrderedDict):
            waiting += [*value.keys(), *value.values()]
        elif type(value) in (list, tuple, set, frozenset):
            waiting += list(value)
        elif type(value) is np.ndarray:
            require(value.dtype.kind in "biufSU" and value.nbytes <= 4 * len(data) + 65536, "an odd array")
            value.tobytes()
        else:
            require(isinstance(value, _PLAIN), f"a pickle made a {type(value).__name__}")


def scene_file(suffix: str) -> Any:
    """Return a reader of scene files with a suffix."""

    def read(data: bytes, folder: Path) -> None:
        path = write_once(folder / f"a{suffix}", data)
        scene = read_scene(path, sampling=Sampling(mesh_points=MOST))
        check_scene(scene)
        tree = stored_tree(scene, SceneRef(path, ""))
        if tree is not None:
            check_regions(tree, scene.num_points)

    return read


def scene_folder(data: bytes, folder: Path) -> None:
    """Read the data as a folder, with a file for each array that begins in it."""
    (path := folder / "a").mkdir(exist_ok=True)
    before, *arrays = data.split(seeds.MAGIC)
    names = ("coord", "normal", "color", "segment", "segment20")
    for name in names:
        (path / f"{name}.npy").unlink(missing_ok=True)
    for name, array in zip(names, arrays, strict=False):
        write_once(path / f"{name}.npy", (before if name == "coord" else b"") + seeds.MAGIC + array)
    check_scene(read_scene(path))


def check_scene(scene: Scene) -> None:
    """Check a scene against the documentation of `Scene`."""
    count = len(scene.coord)
    require(count >= 4, "it has too few points")
    _check_table(scene.coord, (count, 3), np.float32, -math.inf, math.inf)
    require(scene.coord[:, 2].min() == 0, "its lowest point is not at 0")
    middle = np.abs(scene.coord[:, :2].min(axis=0) + scene.coord[:, :2].max(axis=0)).max()
    require(middle <= 1e-5 * max(1.0, np.abs(scene.coord).max()), "it does not lie around 0")
    _check_table(scene.shift, (3,), np.float64, -math.inf, math.inf)
    if scene.normal is not None:
        _check_table(scene.normal, (count, 3), np.float32, -1.001, 1.001)
        length = np.linalg.norm(scene.normal.astype(np.float64), axis=1)
        require(((np.abs(length - 1) < 1e-3) | (length == 0)).all(), "a normal is neither of length 1 nor 0")
    if scene.color is not None:
        _check_table(scene.color, (count, 3), np.float32, 0, 1)
    if scene.segment is not None:
        _check_table(scene.segment, (count,), np.int64, -1, 2**31)
    require(scene.hierarchy is None or isinstance(scene.hierarchy, dict), "its tree is not a dict")


def _check_table(array: Any, shape: tuple[int, ...], dtype: type, low: float, high: float) -> None:
    require(type(array) is np.ndarray and array.shape == shape and array.dtype == dtype, "an array of another kind")
    require(np.isfinite(array).all() and array.min() >= low and array.max() <= high, "a value out of its range")


def nested(data: bytes, _: Path) -> None:
    value = seeds.nested_of(data)
    check_regions(tree_from_nested(value, seeds.TREE_POINTS), seeds.TREE_POINTS)


def check_regions(tree: RegionTree, num_points: int) -> None:
    """Compare the points of each region with those of its children, as sets."""
    members = [tree.region(row).tolist() for row in range(tree.num_regions)]
    require(sorted(members[0]) == list(range(num_points)), "the root does not contain every point once")
    require((tree.parent[0], tree.level[0]) == (-1, 0), "the root is not the first region")
    for row, points in enumerate(members):
        children = np.flatnonzero(tree.parent == row).tolist()
        require(tree.center_idx[row] in points, "a center lies outside its region")
        require(all(child > row and tree.level[child] == tree.level[row] + 1 for child in children), "a wrong level")
        held = [point for child in children for point in members[child]]
        require(not children or sorted(held) == sorted(points), "children do not divide their parent")
    require(tree.level.max() <= MAX_LEVEL, "the tree is too deep")


def array_cache(data: bytes, folder: Path) -> None:
    """Read a cache file."""
    arrays = read_arrays(write_once(folder / "scene-a.arrays", data), lambda _: True)
    for array in (arrays or {}).values():
        require(type(array) is np.ndarray and not array.dtype.hasobject, "an odd array")
        array.tobytes()


READERS = [
    Reader("ply", ply, seeds.ply_files, (ValueError,)),
    Reader("npy", npy, seeds.npy_files, (ValueError,)),
    Reader("npz", npz, seeds.npz_files, (ValueError,), seeds.sealed_zip),
    Reader("pickle", pickled, seeds.pickles, (ValueError, RefusedPickleError)),
    Reader("scene_ply", scene_file(".ply"), seeds.ply_files, (DataError,)),
    Reader("scene_pkl", scene_file(".pkl"), seeds.scene_pickles, (DataError,)),
    Reader("scene_npz", scene_file(".npz"), seeds.npz_files, (DataError,), seeds.sealed_zip),
    *(
        Reader(f"scene_{suffix[1:]}", scene_file(suffix), seeds.files_of(suffix), (DataError,))
        for suffix in SCENE_SUFFIXES
    ),
    Reader("scene_folder", scene_folder, seeds.folders, (DataError,)),
    Reader("nested_tree", nested, seeds.nested_trees, (DataError,), structured=True),
    Reader("array_cache", array_cache, seeds.cache_files, ()),
]
