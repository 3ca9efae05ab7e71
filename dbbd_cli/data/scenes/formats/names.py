"""The names that programs give to the parts of a scene: columns of points, and arrays.

`docs/formats.md` shows the same table, and which programs write which names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.scene import COLOR, COORD, NORMAL, SEGMENT, SceneArrays

SEGMENT_NAMES = (
    *("segment20", "segment", "segments", "label", "labels", "class", "classification", "semantic"),
    *("classes", "semantics", "semanticlabel", "semanticclass", "semanticsegment", "semanticsegmentation"),
    *("segmentation", "semlabel", "semclass", "semseg", "classid", "classlabel", "labelid", "labelclass"),
    *("category", "categoryid", "categories", "gtlabel", "gtclass", "groundtruth"),
)
ARRAY_NAMES = {
    COORD: ("coord", "coords", "xyz", "points", "point", "positions", "position", "pos", "vertices"),
    NORMAL: ("normal", "normals", "norm", "norms", "vertexnormals", "pointnormals"),
    COLOR: ("color", "colors", "colour", "colours", "rgb", "rgba", "vertexcolors", "pointcolors"),
    SEGMENT: SEGMENT_NAMES,
}
"""Names of arrays, as `simplified` writes them; the first one in a file is used."""

PROPERTY = "property"
"""What is read for other numbers of each point."""
_MAX_PROPERTIES = 16
"""This bounds the memory that an archive of many arrays can ask for."""

_AXES = ("x", "y", "z")
_CHANNELS = ("red", "green", "blue")
SPHERICAL_HARMONICS = ("fdc0", "fdc1", "fdc2")
"""The constant term of a Gaussian splat's color, from which the color is computed."""
_FIRST_HARMONIC = 0.5 / np.sqrt(np.pi)
COLUMN_NAMES = {
    COORD: (_AXES,),
    NORMAL: tuple(
        tuple(before + axis for axis in _AXES) for before in ("n", "normal", "norm", "normals", "vertexnormal")
    ),
    COLOR: (
        _CHANNELS,
        ("r", "g", "b"),
        *(tuple(before + channel for channel in _CHANNELS) for before in ("diffuse", "color", "colour", "vertex")),
        *(tuple(before + channel for channel in "rgb") for before in ("diffuse", "color", "colour", "vertexcolor")),
        SPHERICAL_HARMONICS,
    ),
    SEGMENT: tuple((name,) for name in SEGMENT_NAMES),
}
"""Names of the columns that together form a part of a scene, as `simplified` writes them."""

_SEPARATORS = re.compile(r"[\W_]+")


def simplified(name: str) -> str:
    """A name in lower case, without CloudCompare's prefix `scalar_`, underscores, spaces and other separators.

    A name of separators alone stays as it is.
    """
    short = _SEPARATORS.sub("", name.lower()) or name
    while short.startswith("scalar") and short != "scalar":
        short = short.removeprefix("scalar")
    return short


def find_arrays(names: Iterable[str]) -> dict[str, str]:
    """Map each part of a scene to the name of its array; parts that the file lacks are left out."""
    columns = {part: tuple((name,) for name in choices) for part, choices in ARRAY_NAMES.items()}
    return {part: found[0] for part, found in _find(columns, names).items()}


def find_columns(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Map each part of a scene to the names of its columns, in the order of the axes or channels."""
    return _find(COLUMN_NAMES, names)


def column_arrays(columns: Mapping[str, np.ndarray]) -> SceneArrays:
    """The arrays of a file that has a column for each number of a point.

    Args:
        columns: name to values, `(N,)` each.

    Raises:
        ValueError: there are no coordinates.
    """
    found = find_columns(columns)
    if COORD not in found:
        raise ValueError(f"its points have no x, y and z, only {', '.join(columns)[:200]}")
    parts = {part: np.stack([columns[name] for name in names], axis=1) for part, names in found.items()}
    if COLOR in found and tuple(map(simplified, found[COLOR])) == SPHERICAL_HARMONICS:
        parts[COLOR] = np.clip(0.5 + _FIRST_HARMONIC * parts[COLOR].astype(np.float64), 0, 1)
    used = {name for names in found.values() for name in names}
    properties = {name: values for name, values in columns.items() if name not in used}
    return SceneArrays(parts[COORD], parts.get(NORMAL), parts.get(COLOR), parts.get(SEGMENT), properties=properties)


def _find(table: Mapping[str, tuple[tuple[str, ...], ...]], names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(simplified(name), name)
    found = {}
    for part, choices in table.items():
        choice = next((choice for choice in choices if known.keys() >= set(choice)), None)
        if choice is not None:
            found[part] = tuple(known[name] for name in choice)
    return found


def scene_arrays(
    names: Iterable[str],
    read: Callable[[str, str], np.ndarray],
    hierarchy: dict[Any, Any] | None = None,
) -> SceneArrays:
    """The arrays of a file whose names say what they are.

    Args:
        names: names of the arrays in the file.
        read: read the array of a name, for a part of the scene or as `PROPERTY`; a ValueError says why the array
            cannot be used.
        hierarchy: the region tree in the file.

    Raises:
        ValueError: there are no coordinates, or they cannot be read.
    """
    names = list(names)
    found = find_arrays(names)
    if COORD not in found:
        raise ValueError(f"has no coordinates: none of {', '.join(ARRAY_NAMES[COORD][:4])} is in it")
    used = set(found.values())
    coord = read(found.pop(COORD), COORD)
    parts: dict[str, np.ndarray] = {}
    unusable: dict[str, str] = {}
    for part, name in found.items():
        try:
            parts[part] = read(name, part)
        except ValueError as error:
            unusable[part] = str(error)
    properties = {}
    for name in [name for name in names if name not in used][:_MAX_PROPERTIES]:
        with suppress(ValueError):
            properties[name] = read(name, PROPERTY)
    return SceneArrays(coord, parts.get(NORMAL), parts.get(COLOR), parts.get(SEGMENT), hierarchy, properties, unusable)
