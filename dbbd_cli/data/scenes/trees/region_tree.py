"""The region tree of a scene as flat arrays.

Legend: N points of the scene, R regions, L levels, M points summed over all regions (at most N * L).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_LEVEL = 32
"""Maximum level of a tree: more than any scene needs, but it bounds the cost of a malformed file."""


@dataclass(frozen=True, eq=False)
class RegionTree:
    """Regions in depth-first pre-order, children from left to right.

    Region r holds the points `indices[indices_ptr[r]:indices_ptr[r + 1]]`.

    Attributes:
        parent: row of the parent, -1 for the root, `(R,)` int32.
        level: 0 for the root, otherwise one more than the parent's, `(R,)` int32.
        center_idx: the point at the center of each region, one of its own, `(R,)` int32.
        indices: the points of each region as indices into the scene, `(M,)` int32.
        indices_ptr: where the points of each region start, `(R + 1,)` int64.
    """

    parent: np.ndarray
    level: np.ndarray
    center_idx: np.ndarray
    indices: np.ndarray
    indices_ptr: np.ndarray

    @property
    def num_regions(self) -> int:
        """R, including the root."""
        return len(self.parent)

    @property
    def num_levels(self) -> int:
        """L; 1 if the root is the only region."""
        return int(self.level.max()) + 1

    @property
    def num_points(self) -> np.ndarray:
        """Number of points of each region, `(R,)` int64."""
        return np.diff(self.indices_ptr)

    @property
    def is_leaf(self) -> np.ndarray:
        """Whether a region has no children, `(R,)` bool."""
        leaf = np.ones(self.num_regions, dtype=bool)
        leaf[self.parent[1:]] = False
        return leaf

    def region(self, row: int) -> np.ndarray:
        """The points of one region, `(points,)` int32."""
        return self.indices[self.indices_ptr[row] : self.indices_ptr[row + 1]]


def cut_tree(tree: RegionTree, max_level: int) -> RegionTree:
    """The tree without the regions below `max_level`; the regions at that level become leaves."""
    keep = tree.level <= max_level
    if keep.all():
        return tree
    counts = tree.num_points
    new_row = np.cumsum(keep) - 1  # the parent of a region that is kept is kept too
    parent = tree.parent[keep]
    parent[1:] = new_row[parent[1:]]
    return RegionTree(
        parent=parent,
        level=tree.level[keep],
        center_idx=tree.center_idx[keep],
        indices=tree.indices[np.repeat(keep, counts)],
        indices_ptr=np.concatenate([[0], np.cumsum(counts[keep])]),
    )
