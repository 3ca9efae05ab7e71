"""Files that are read block by block, so that a scan of any size can be thinned to a grid in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from dbbd_cli.data.scenes.scene import COLOR, COORD, MAX_POINTS, NORMAL, SEGMENT, SceneArrays

BLOCK_POINTS = 1 << 20
"""Usual number of points of a block."""
MAX_BYTES = 2**31
"""Size limit of a file that is read as a whole."""


def joined(blocks: Iterable[SceneArrays], max_points: int = MAX_POINTS) -> SceneArrays:
    """All points of the blocks of a file, which have the same parts and properties.

    Raises:
        ValueError: there are none, or more than `max_points`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    first: SceneArrays | None = None
    count = 0
    for block in blocks:
        first = first or block
        count += len(block.coord)
        if count > max_points:
            raise too_many_points(f"more than {max_points:,}")
        for name in (COORD, NORMAL, COLOR, SEGMENT):
            if getattr(first, name) is not None:
                parts.setdefault(name, []).append(getattr(block, name))
        for name in first.properties:
            parts.setdefault(f"property {name}", []).append(block.properties[name])
    if first is None:
        raise ValueError("has no points")
    # One after the other, so that no more than one part is in memory twice.
    whole = {name: np.concatenate(parts.pop(name)) for name in [*parts]}
    properties = {name: whole.pop(f"property {name}") for name in first.properties}
    return SceneArrays(whole[COORD], whole.get(NORMAL), whole.get(COLOR), whole.get(SEGMENT), properties=properties)


def by_rows(combine: Callable[[list[np.ndarray]], np.ndarray], *arrays: SceneArrays) -> SceneArrays:
    """Combine the arrays of scenes, part by part and property by property; those of the first are used in all."""
    first = arrays[0]

    def part(name: str) -> np.ndarray | None:
        parts = [getattr(each, name) for each in arrays]
        return None if parts[0] is None else combine(parts)

    coord = part(COORD)
    assert coord is not None
    return replace(
        first,
        coord=coord,
        normal=part(NORMAL),
        color=part(COLOR),
        segment=part(SEGMENT),
        properties={name: combine([each.properties[name] for each in arrays]) for name in first.properties},
    )


def slices(arrays: SceneArrays, size: int = BLOCK_POINTS) -> Iterator[SceneArrays]:
    """The points of a scene in blocks."""
    for start in range(0, len(arrays.coord), size):
        yield by_rows(lambda parts, start=start: parts[0][start : start + size], arrays)  # type: ignore[misc]


def check_size_of_whole(size: int) -> None:
    """Check the size of a file that is read as a whole, though one of its format can be larger.

    Raises:
        ValueError: it is too large.
    """
    if size > MAX_BYTES:
        raise ValueError(
            f"has {size:,} bytes; the limit is {MAX_BYTES:,}: divide or downsample it; for training, "
            "data.grid_size thins it on reading if it is saved as binary"
        )


def too_many_points(count: str) -> ValueError:
    """The error for a scan that is too large to be read as a whole."""
    return ValueError(
        f"has {count} points; the limit is {MAX_POINTS:,}: divide or downsample it; for training, data.grid_size "
        "thins it on reading"
    )
