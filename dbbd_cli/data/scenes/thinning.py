"""Thin a scan to one point for each cell of a grid, block by block, in bounded memory.

The point nearest to the center of its cell stays, with everything that belongs to it; the first one on ties. Cells are
counted from the origin of the coordinates, so the result depends neither on the format of the file nor on the blocks.

Legend: N points of a block, M points that stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dbbd_cli.core.text import counted
from dbbd_cli.data.scenes.formats.blocks import by_rows, slices
from dbbd_cli.data.scenes.scene import COLOR, MAX_POINTS, MIN_POINTS, NORMAL, SEGMENT, SceneArrays, checked_coord

MAX_POINTS_READ = 200_000_000
"""Larger scans are refused; this bounds the time that a file can ask for."""
_NUMBER = "number"
_HALF = 1 << 20
"""Cells along each axis on either side of the first point; three such numbers fit into 63 bits."""


@dataclass
class _Kept:
    """Points that stay so far, sorted by cell.

    Attributes:
        cell: `(M,)` int64.
        distance: from the center of the cell, squared, in cells, `(M,)`.
        position: in the file, `(M,)` int64.
        arrays: everything else.
    """

    cell: np.ndarray
    distance: np.ndarray
    position: np.ndarray
    arrays: SceneArrays

    def rows(self, rows: np.ndarray) -> _Kept:
        arrays = by_rows(lambda parts: parts[0][rows], self.arrays)
        return _Kept(self.cell[rows], self.distance[rows], self.position[rows], arrays)

    def nearest(self) -> _Kept:
        """The first of the nearest points of each cell, sorted by cell; the points are in the order of the file."""
        order = np.lexsort((self.distance, self.cell))
        cell = self.cell[order]
        return self.rows(order[np.concatenate([[True], cell[1:] != cell[:-1]])])


def thinned(blocks: Iterable[SceneArrays], grid_size: float) -> SceneArrays:
    """Thin the points of a scan to a grid; they keep their order.

    Args:
        blocks: the points; all blocks have the same parts.
        grid_size: side of a cell, in the unit of the coordinates.

    Raises:
        ValueError: a block is invalid, or too many or too few points are left; the message says why.
    """
    kept: _Kept | None = None
    origin = np.zeros(3)
    count = 0
    for block in blocks:
        if not len(block.coord):
            continue
        arrays = _of_one_length(block)
        place = checked_coord(block.coord, first=count).astype(np.float64) / grid_size
        cell = np.floor(place)
        if kept is None:
            origin = cell[0].copy()
        distance = ((place - cell - 0.5) ** 2).sum(axis=1)
        cell -= origin
        if np.abs(cell).max() >= _HALF:
            raise ValueError(f"extends over more than {_HALF:,} cells of data.grid_size={grid_size:g}: raise it")
        x, y, z = (cell.astype(np.int64) + _HALF).T
        position = np.arange(count, count + len(cell))
        count += len(cell)
        if count > MAX_POINTS_READ:
            raise ValueError(f"has more than {MAX_POINTS_READ:,} points: downsample it first")
        new = _Kept((x << 42) | (y << 21) | z, distance, position, arrays).nearest()
        kept = new if kept is None else _merged(kept, new)
        if len(kept.cell) > MAX_POINTS:
            raise ValueError(f"has more than {MAX_POINTS:,} points on a grid of data.grid_size={grid_size:g}: raise it")
    if kept is None:
        raise ValueError("has no points")
    if len(kept.cell) < MIN_POINTS:
        raise ValueError(
            f"has only {counted(len(kept.cell), 'point')} on a grid of data.grid_size={grid_size:g}: lower it"
        )
    return kept.rows(np.argsort(kept.position)).arrays


def points_on_grid(coord: np.ndarray, grid_size: float) -> np.ndarray:
    """The numbers of the points that `thinned` keeps, ascending, `(M,)`, of coordinates `(N, 3)`."""
    numbered = SceneArrays(coord, properties={_NUMBER: np.arange(len(coord))})
    return thinned(slices(numbered), grid_size).properties[_NUMBER]


def _merged(first: _Kept, second: _Kept) -> _Kept:
    """The nearest points of the cells of both, those of the first on ties."""
    pairs = zip(
        (first.cell, first.distance, first.position), (second.cell, second.distance, second.position), strict=True
    )
    cell, distance, position = (np.concatenate(pair) for pair in pairs)
    order = np.argsort(cell, kind="stable")  # fast, as it merges two sorted parts
    is_pair = cell[order[1:]] == cell[order[:-1]]
    is_nearer = distance[order[1:]] < distance[order[:-1]]
    stays = np.ones(len(order), bool)
    stays[1:] &= ~(is_pair & ~is_nearer)
    stays[:-1] &= ~(is_pair & is_nearer)
    rows = order[stays]
    # Part by part, so that no more than one part is in memory three times.
    arrays = by_rows(lambda parts: np.concatenate(parts)[rows], first.arrays, second.arrays)
    return _Kept(cell[rows], distance[rows], position[rows], arrays)


def _of_one_length(arrays: SceneArrays) -> SceneArrays:
    """The arrays without parts of another length, and without the tree, whose regions refer to all points."""
    count = len(arrays.coord)
    unusable = dict(arrays.unusable)
    parts: dict[str, Any] = {}
    for name in (NORMAL, COLOR, SEGMENT):
        values = getattr(arrays, name)
        if values is not None and values.shape[:1] != (count,):
            parts[name] = None
            if values.size and values.ndim:
                unusable[name] = f"has {counted(count, 'point')} and {len(values):,} rows of {name}"
    properties = {name: values for name, values in arrays.properties.items() if values.shape == (count,)}
    return replace(arrays, **parts, hierarchy=None, properties=properties, unusable=unusable)
