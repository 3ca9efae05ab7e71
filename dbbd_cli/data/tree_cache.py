"""Trees that were built once, for every later epoch and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dbbd_cli.data.array_cache import cached_arrays, content_key
from dbbd_cli.data.region_tree import RegionTree, check_tree
from dbbd_cli.data.tree_builder import build_tree
from dbbd_cli.errors import DataError

_VERSION = 1
"""To be raised when the builder makes other trees."""


def cached_tree(coord: np.ndarray, cache_dir: Path, *, max_depth: int = 4, min_region_points: int = 16) -> RegionTree:
    """The tree that `build_tree` makes, from the cache where it was made before.

    Args:
        coord: coordinates, `(N, 3)`.
        cache_dir: folder of the caches.
        max_depth: level of the deepest regions.
        min_region_points: regions of fewer than twice as many points are not parted.

    Returns:
        The tree, checked; its arrays are mapped into memory, read only.

    Raises:
        DataError: there are no points, or a coordinate is not finite.
        DiskError: the cache cannot be written.
    """
    key = content_key({"coord": coord}, version=_VERSION, max_depth=max_depth, min_region_points=min_region_points)

    def make() -> dict[str, np.ndarray]:
        return vars(build_tree(coord, max_depth=max_depth, min_region_points=min_region_points))

    def usable(arrays: dict[str, np.ndarray]) -> bool:
        try:
            check_tree(RegionTree(**arrays), len(coord))
        except (TypeError, DataError):
            return False
        return True

    return RegionTree(**cached_arrays(cache_dir, "tree", key, make, usable))
