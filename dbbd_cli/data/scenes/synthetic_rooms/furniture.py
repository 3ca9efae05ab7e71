"""Furniture as solids in a local frame: meters, z up, standing on z = 0, centered at the origin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dbbd_cli.data.scenes.synthetic_rooms.solids import Ball, Box, Cylinder, Solid

Parts = list[Solid]


def _box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Box:
    ranges = (x, y, z)
    a, b, c = ((low + high) / 2 for low, high in ranges)
    p, q, r = ((high - low) / 2 for low, high in ranges)
    return Box((a, b, c), (p, q, r))


def _legs(half_x: float, half_y: float, height: float, width: float) -> Parts:
    x, y, w = half_x - width, half_y - width, width / 2
    return [_box((i - w, i + w), (j - w, j + w), (0, height)) for i in (-x, x) for j in (-y, y)]


def table(rng: np.random.Generator, half_x: float, half_y: float) -> Parts:
    """A table: a top on four legs, or a round one on a column."""
    height = rng.uniform(0.68, 0.78)
    if rng.random() < 0.3:
        radius = min(half_x, half_y)
        return [
            Cylinder((0, 0, height - 0.015), radius, 0.015),
            Cylinder((0, 0, height / 2), 0.05, height / 2 - 0.03),
            Cylinder((0, 0, 0.02), radius * 0.5, 0.02),
        ]
    top = _box((-half_x, half_x), (-half_y, half_y), (height - 0.03, height))
    return [top, *_legs(half_x, half_y, height - 0.03, 0.05)]


def chair(rng: np.random.Generator) -> Parts:
    """A chair, 0.45 m wide, with its back at positive y."""
    seat = rng.uniform(0.42, 0.48)
    half = rng.uniform(0.2, 0.24)
    back = rng.uniform(0.8, 0.98)
    plate = _box((-half, half), (-half, half), (seat - 0.04, seat))
    return [plate, _box((-half, half), (half - 0.035, half), (seat, back)), *_legs(half, half, seat - 0.04, 0.035)]


def shelf(rng: np.random.Generator, half_x: float, half_y: float) -> Parts:
    """A shelf, open toward negative y: sides, back, and boards with books."""
    height = rng.uniform(1.2, 2.1)
    t = 0.02
    boards = np.linspace(t, height - t, int(rng.integers(4, 7)))
    parts: Parts = [_box((side - t, side + t), (-half_y, half_y), (0, height)) for side in (-half_x + t, half_x - t)]
    parts.append(_box((-half_x, half_x), (half_y - t, half_y), (0, height)))
    parts += [_box((-half_x, half_x), (-half_y, half_y), (z - t, z + t)) for z in boards]
    for z, above in pairwise(boards):
        if rng.random() < 0.7:
            left = rng.uniform(-half_x * 0.9, 0)
            right = left + rng.uniform(0.3, 0.9) * half_x
            space = above - z - 2 * t
            parts.append(_box((left, right), (-half_y * 0.5, half_y), (z + t, z + t + space * rng.uniform(0.5, 0.85))))
    return parts


def standing_lamp(rng: np.random.Generator) -> Parts:
    """A floor lamp: foot, pole and shade."""
    height = rng.uniform(1.3, 1.7)
    shade: Solid = (
        Cylinder((0, 0, height), rng.uniform(0.16, 0.22), rng.uniform(0.12, 0.17))
        if rng.random() < 0.6
        else Ball((0, 0, height), rng.uniform(0.15, 0.2))
    )
    return [Cylinder((0, 0, 0.015), 0.15, 0.015), Cylinder((0, 0, height / 2), 0.02, height / 2), shade]


def hanging_lamp(rng: np.random.Generator, ceiling: float) -> Parts:
    """A ceiling lamp: a ball or drum on a cord."""
    drop = rng.uniform(0.4, 0.8)
    radius = rng.uniform(0.14, 0.22)
    shade: Solid = (
        Ball((0, 0, ceiling - drop), radius)
        if rng.random() < 0.5
        else Cylinder((0, 0, ceiling - drop), radius, 0.6 * radius)
    )
    return [Cylinder((0, 0, ceiling - drop / 2), 0.01, drop / 2), shade]


def crate(rng: np.random.Generator, half_x: float, half_y: float) -> Parts:
    """A box on the floor, sometimes with a smaller one on top."""
    height = rng.uniform(0.25, 0.6)
    parts: Parts = [_box((-half_x, half_x), (-half_y, half_y), (0, height))]
    if rng.random() < 0.35:
        x, y = half_x * rng.uniform(0.5, 0.8), half_y * rng.uniform(0.5, 0.8)
        parts.append(_box((-x, x), (-y, y), (height, height + rng.uniform(0.15, 0.35))))
    return parts


def sofa(rng: np.random.Generator, half_x: float) -> Parts:
    """A sofa, 0.85 m deep, with its back at positive y."""
    seat, back, arm = rng.uniform(0.38, 0.45), rng.uniform(0.75, 0.9), rng.uniform(0.55, 0.65)
    parts: Parts = [
        _box((-half_x, half_x), (-0.42, 0.42), (0.06, seat)),
        _box((-half_x, half_x), (0.22, 0.42), (seat, back)),
    ]
    parts += [_box((side - 0.09, side + 0.09), (-0.42, 0.42), (0.06, arm)) for side in (-half_x + 0.09, half_x - 0.09)]
    return parts
