"""A scene, and the checks that turn the arrays of a file into one.

Legend: N points of the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dbbd_cli.core.text import counted

COORD, NORMAL, COLOR, SEGMENT = "coord", "normal", "color", "segment"
"""The parts of a scene: attributes of `Scene` and `SceneArrays`, and keys of their `unusable`."""

MIN_POINTS = 4
MAX_POINTS = 20_000_000
"""Larger scenes must be downsampled first; this bounds the memory that a file can ask for."""

MAX_EXTENT = 1e8
"""Maximum side of a scene, in its own unit: beyond this, float32 loses the details."""

IGNORE = -1
"""The segment of a point whose class is unknown."""


@dataclass(frozen=True, eq=False)
class SceneArrays:
    """The unchecked arrays of a scene file, as returned by the readers in `formats`.

    Attributes:
        coord: `(N, 3)`, in any unit and at any distance from the origin.
        normal: `(N, 3)`, of any length; a row that is zero or not finite is unknown. None if missing, as below.
        color: `(N, 3)`, or `(N, 4)` with an opacity, which is dropped; see `_zero_to_one` for the ranges.
        segment: `(N,)` or `(N, 1)` integers; NaN and negative values are unlabeled, also as an unsigned type holds them
            (2**32 - 1 for -1).
        hierarchy: the region tree as nested dicts; see `trees.nested`.
        properties: other numbers of each point by name, such as intensity, `(N,)` each; others are dropped.
        unusable: optional parts that could not be read, and why.
    """

    coord: np.ndarray
    normal: np.ndarray | None = None
    color: np.ndarray | None = None
    segment: np.ndarray | None = None
    hierarchy: dict[Any, Any] | None = None
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scene:
    """A point cloud.

    Attributes:
        coord: `(N, 3)` float32, finite, shifted: x and y are centered at 0, the lowest z is 0.
        shift: `(3,)` float64; `coord + shift` are the original coordinates.
        normal: `(N, 3)` float32 of length 1, or 0 if unknown; None if no point has one.
        color: `(N, 3)` float32, red, green and blue from 0 to 1, or None.
        segment: `(N,)` int64, the class of each point, or `IGNORE`; None if the scene has no labels.
        hierarchy: the region tree of the file, as nested dicts, unchecked; or None.
        reserved_label: the label that by convention is not a class: the largest value of the unsigned type of the
            labels, such as 255, if it occurs and stands apart from the others; otherwise None. It is not removed
            from `segment` by `make_scene`.
        properties: other numbers of each point by name, such as intensity, `(N,)` each.
        geometry: `(N, 29)` float16, see `geometry_features`; None: not computed.
        unusable: parts of the file that cannot be used, and why. They are None here.
    """

    coord: np.ndarray
    shift: np.ndarray
    normal: np.ndarray | None = None
    color: np.ndarray | None = None
    segment: np.ndarray | None = None
    hierarchy: dict[Any, Any] | None = None
    reserved_label: int | None = None
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)
    geometry: np.ndarray | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_points(self) -> int:
        """N."""
        return len(self.coord)


def make_scene(arrays: SceneArrays) -> Scene:
    """Check and convert the arrays of a scene.

    Only coordinates are required. Any other part that is invalid is left out and listed in `Scene.unusable`; a part
    without rows, or a single number, counts as missing.

    Raises:
        ValueError: the coordinates are invalid; the message says why.
    """
    _check_count(_of_width(arrays.coord, "coordinates", 3), None, "coordinates")
    coord, shift = _shifted(checked_coord(arrays.coord))
    unusable = dict(arrays.unusable)

    def usable(part: str, convert: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray | None:
        values = getattr(arrays, part)
        if values is None or values.ndim == 0 or len(values) == 0:
            return None
        try:
            return convert(values, len(coord))
        except ValueError as error:
            unusable[part] = str(error)
            return None

    normal = usable(NORMAL, _unit)
    segment = usable(SEGMENT, _classes)
    return Scene(
        coord=coord,
        shift=shift,
        normal=normal if normal is not None and normal.any() else None,
        color=usable(COLOR, _zero_to_one),
        segment=segment,
        hierarchy=arrays.hierarchy,
        reserved_label=None if arrays.segment is None or segment is None else _reserved(segment, arrays.segment.dtype),
        properties={
            name: values
            for name, values in arrays.properties.items()
            if values.shape == (len(coord),) and values.dtype.kind in "biuf"
        },
        unusable=unusable,
    )


def checked_coord(coord: np.ndarray, first: int = 0) -> np.ndarray:
    """The coordinates if they are `(N, 3)` finite numbers; `first` is the number of their first point in the file.

    Raises:
        ValueError: they are not; the message says why.
    """
    return _finite(_of_width(coord, "coordinates", 3), "coordinates", first)


def _of_width(values: np.ndarray, what: str, *widths: int) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] not in widths or values.dtype.kind not in "biuf":
        raise ValueError(f"its {what} must be 3 numbers per point, not {_described(values)}")
    return values


def _rows(values: np.ndarray, count: int, what: str, *widths: int) -> np.ndarray:
    _check_count(_of_width(values, what, *widths), count, what)
    return values


def _finite(values: np.ndarray, what: str, first: int = 0) -> np.ndarray:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        more = f" and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise ValueError(f"its {what} are not finite at point {first + bad[0]:,}{more} (counted from 0)")
    return values


def _check_count(values: np.ndarray, count: int | None, what: str) -> None:
    if count is not None and len(values) != count:
        raise ValueError(f"has {counted(count, 'point')} and {len(values):,} {what}")
    if len(values) < MIN_POINTS:
        raise ValueError(f"has only {counted(len(values), 'point')}; a scene needs at least {MIN_POINTS}")
    if len(values) > MAX_POINTS:
        raise ValueError(f"has {len(values):,} points; the limit is {MAX_POINTS:,}: downsample it first")


def _described(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape)) or 'a single value'} of {values.dtype}"


def _shifted(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates near the origin, `(N, 3)` float32, and what was subtracted from them, `(3,)` float64."""
    lowest, highest = coord.min(axis=0).astype(np.float64), coord.max(axis=0).astype(np.float64)
    extent = (highest / 2 - lowest / 2).max() * 2  # the difference itself might overflow
    if extent > MAX_EXTENT:
        raise ValueError(f"its coordinates extend over {extent:.1e} units; the limit is {MAX_EXTENT:.0e}")
    shift = np.array([*((lowest + highest) / 2)[:2], lowest[2]])
    if extent > 0:  # checked before millions of equal points are copied
        shifted = (coord.astype(np.float64) - shift).astype(np.float32)
        if np.ptp(shifted, axis=0).any():
            return shifted, shift
    raise ValueError("all of its points are in the same place")


def _unit(normal: np.ndarray, count: int) -> np.ndarray:
    """Normals of length 1; a row that is zero or not finite becomes 0."""
    normal = _rows(normal, count, "normals", 3).astype(np.float64)
    normal[~np.isfinite(normal).all(axis=1)] = 0
    normal /= np.maximum(np.abs(normal).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)  # squares may overflow
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal / np.where(length > 0, length, 1)).astype(np.float32)


_COLOR_TOLERANCE = 0.005
"""Tolerance for colors outside their range, relative to it: averaging and resampling give 1.0000001, -1e-7, 255.4."""
_BRIGHTEST_FRACTION = 2.0
"""Fractions below this are on a scale from 0 to 1; on a scale from 0 to 255, they would all be black."""


def _zero_to_one(color: np.ndarray, count: int) -> np.ndarray:
    """Colors from 0 to 1, `(N, 3)` float32.

    White depends on the largest value of the scene, not on its type: LAS tools write 8-bit values in 16-bit fields, and
    text has no types. It is 1 for fractions, otherwise 255 if no value is larger, otherwise 65,535.
    """
    color = _finite(_rows(color, count, "colors", 3, 4)[:, :3], "colors")
    if color.dtype == np.int8:  # declared by mistake: colors have no sign
        color = color.astype(np.uint8)
    lowest, highest = float(color.min()), float(color.max())
    if color.dtype.kind in "bf" and highest < _BRIGHTEST_FRACTION:
        white = 1.0
    else:
        white = 255.0 if highest <= 255 * (1 + _COLOR_TOLERANCE) else 65535.0
    if lowest < -_COLOR_TOLERANCE * white or highest > (1 + _COLOR_TOLERANCE) * white:
        raise ValueError(f"its colors range from {lowest:g} to {highest:g}; expected 0 to 1, 255 or 65,535")
    return np.clip(color / np.float64(white), 0, 1).astype(np.float32)


_WRAPPED = 1000
"""Negative labels down to minus this value are recognized in unsigned types, such as -1, and PyTorch's -100."""


def _classes(segment: np.ndarray, count: int) -> np.ndarray:
    if segment.ndim == 2 and segment.shape[1] == 1:
        segment = segment[:, 0]
    if segment.ndim != 1 or segment.dtype.kind not in "biuf":
        raise ValueError(f"its labels must be one number per point, not {_described(segment)}")
    _check_count(segment, count, "labels")
    is_float = segment.dtype.kind == "f"
    if segment.dtype.kind == "b":
        segment = segment.astype(np.uint8)
    elif segment.dtype == np.float16:
        segment = segment.astype(np.float32)  # which can represent the limits below
    if is_float:
        segment = np.maximum(np.where(np.isnan(segment), IGNORE, segment), IGNORE)
        if not np.array_equal(segment, np.rint(segment)):
            raise ValueError("its labels are not integers")
    # Negative numbers in unsigned types; float32 rounds them.
    unknown = np.logical_or.reduce(
        [(segment >= end - _WRAPPED) & (segment <= end) for end in ((2.0**32, 2.0**64) if is_float else (2**32, 2**64))]
    )
    classes = np.where(unknown, 0, segment)
    if classes.max() >= 2**31:
        raise ValueError(f"its labels reach {classes.max():g}, too large for classes")
    classes = np.maximum(classes.astype(np.int64), IGNORE)
    classes[unknown] = IGNORE
    return classes


_APART = 2
"""A label that means "ignore" exceeds all classes by at least this."""


def stands_apart(label: int, others: Set[int]) -> bool:
    """Whether a label does not continue the others, so that it may mean something other than a class."""
    return label >= max(others, default=IGNORE) + _APART


def _reserved(classes: np.ndarray, dtype: np.dtype) -> int | None:
    if dtype.kind != "u" or dtype.itemsize > 2:  # the largest values of wider types are too large for classes anyway
        return None
    largest = int(np.iinfo(dtype).max)
    if not (classes == largest).any():
        return None
    return largest if stands_apart(largest, set(np.unique(classes).tolist()) - {largest}) else None
