"""What a scene is, and what must hold of one. N: its points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dbbd_cli.text import counted

MIN_POINTS = 4
MAX_POINTS = 20_000_000
"""More points than this are to be thinned out first; it bounds the memory that a file can ask for."""

MAX_EXTENT = 1e8
"""Largest side of a scene, in its own unit: beyond it float32 loses what a scene consists of."""

IGNORE = -1
"""The segment of a point whose class is not known."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A cloud of points.

    Args:
        name: what people call it.
        coord: (N, 3) float32, finite, shifted: x and y lie around 0, the lowest z is 0.
        shift: (3,) float64; `coord + shift` are the coordinates of the source.
        normal: (N, 3) float32 of length 1, or 0 where none is known; None where the scene has none.
        colour: (N, 3) float32, red, green and blue from 0 to 1, or None.
        segment: (N,) int64, the class of each point, or `IGNORE`; None where the scene has no labels.
        hierarchy: the tree that came with the scene, as nested dicts that nobody has checked; or None.
    """

    name: str
    coord: np.ndarray
    shift: np.ndarray
    normal: np.ndarray | None = None
    colour: np.ndarray | None = None
    segment: np.ndarray | None = None
    hierarchy: dict[Any, Any] | None = None

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.coord)


def make_scene(
    name: str,
    coord: np.ndarray,
    *,
    normal: np.ndarray | None = None,
    colour: np.ndarray | None = None,
    segment: np.ndarray | None = None,
    hierarchy: dict[Any, Any] | None = None,
) -> Scene:
    """Makes a scene of arrays of any numeric types, after checking them.

    Args:
        name: what people call it.
        coord: (N, 3), anywhere.
        normal: (N, 3), of any length.
        colour: (N, 3), from 0 to 1, 0 to 255 or 0 to 65,535.
        segment: (N,) whole numbers; negative ones and NaN are to be ignored.
        hierarchy: passed on as it is.

    Raises:
        ValueError: the arrays are no scene; the message says why, in plain words.
    """
    shifted, shift = _shifted(_vectors(coord, None, "coordinates"))
    count = len(shifted)
    return Scene(
        name=name,
        coord=shifted,
        shift=shift,
        normal=None if normal is None else _unit(_vectors(normal, count, "normals")),
        colour=None if colour is None else _zero_to_one(_vectors(colour, count, "colours")),
        segment=None if segment is None else _classes(segment, count),
        hierarchy=hierarchy,
    )


def _vectors(values: np.ndarray, count: int | None, what: str) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "biuf":
        raise ValueError(f"its {what} are no table of 3 numbers for each point, but {_shape(values)}")
    _check_count(values, count, what)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ValueError(f"its {what} are not finite at point {bad[0]:,}{more} (counted from 0)")
    return values


def _check_count(values: np.ndarray, count: int | None, what: str) -> None:
    if count is not None and len(values) != count:
        raise ValueError(f"has {counted(count, 'point')} and {len(values):,} {what}")
    if len(values) < MIN_POINTS:
        raise ValueError(f"has only {counted(len(values), 'point')}; a scene needs at least {MIN_POINTS}")
    if len(values) > MAX_POINTS:
        raise ValueError(f"has {len(values):,} points; at most {MAX_POINTS:,} are read")


def _shape(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape)) or 'a single value'} of {values.dtype}"


def _shifted(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates near the origin, (N, 3) float32, and what was taken from them, (3,) float64."""
    lowest, highest = coord.min(axis=0).astype(np.float64), coord.max(axis=0).astype(np.float64)
    extent = (highest / 2 - lowest / 2).max() * 2  # the difference itself might overflow
    if extent > MAX_EXTENT:
        raise ValueError(f"its coordinates reach over {extent:.1e} units; at most {MAX_EXTENT:.0e} make sense")
    shift = np.array([*((lowest + highest) / 2)[:2], lowest[2]])
    shifted = (coord.astype(np.float64) - shift).astype(np.float32)
    if not np.ptp(shifted, axis=0).any():
        raise ValueError("all of its points lie in the same place")
    return shifted, shift


def _unit(normal: np.ndarray) -> np.ndarray:
    """Normals of length 1; those of length 0 stay as they are."""
    normal = normal.astype(np.float64)
    normal /= np.maximum(np.abs(normal).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)  # squares may overflow
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal / np.where(length > 0, length, 1)).astype(np.float32)


def _zero_to_one(colour: np.ndarray) -> np.ndarray:
    """Colours from 0 to 1. The type says where 1 is or, for types that are too wide, the largest value."""
    lowest, highest = float(colour.min()), float(colour.max())
    if colour.dtype in (np.uint8, np.uint16):
        white = float(np.iinfo(colour.dtype).max)
    else:
        is_fraction = colour.dtype.kind in "bf" and highest <= 1
        white = 1.0 if is_fraction else 255.0 if highest <= 255 else 65535.0
    if lowest < 0 or highest > white:
        raise ValueError(f"its colours go from {lowest:g} to {highest:g}; expected 0 to 1, to 255 or to 65,535")
    return (colour / np.float64(white)).astype(np.float32)


def _classes(segment: np.ndarray, count: int) -> np.ndarray:
    if segment.ndim == 2 and segment.shape[1] == 1:
        segment = segment[:, 0]
    if segment.ndim != 1 or segment.dtype.kind not in "biuf":
        raise ValueError(f"its labels are no number for each point, but {_shape(segment)}")
    _check_count(segment, count, "labels")
    if segment.dtype.kind == "f":
        segment = np.where(np.isnan(segment), IGNORE, segment)
        if not np.array_equal(segment, np.rint(segment)):
            raise ValueError("its labels are not whole numbers")
    if segment.max() >= 2**31 or segment.min() < -(2**31):
        raise ValueError(f"its labels go from {segment.min():g} to {segment.max():g}, which are no classes")
    return np.maximum(segment.astype(np.int64), IGNORE)
