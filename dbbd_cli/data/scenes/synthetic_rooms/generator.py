"""Generate synthetic furnished rooms, as a laser scanner sees them from a few positions.

Rays leave each position and stop at the first surface, so that a table hides what is behind it, and near surfaces are
sampled densely. A room depends on (seed, index) alone.

Legend: M rays of a scan, N points of the room, a part of all hits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dbbd_cli.data.scenes.scene import IGNORE, Scene, SceneArrays, make_scene
from dbbd_cli.data.scenes.synthetic_rooms.furniture import (
    Parts,
    chair,
    crate,
    hanging_lamp,
    shelf,
    sofa,
    standing_lamp,
    table,
)

ROOM_CLASSES = ("floor", "wall", "ceiling", "table", "chair", "shelf", "lamp", "box", "sofa")
"""Names of the classes 0, 1, …"""

GENERATOR_VERSION = 1
"""Increase this when the same seed gives different rooms: they are cached."""

_RAYS_PER_POINT = 1.6
_EVENNESS = 0.6
"""How much downsampling evens out the density: 0 keeps that of the rays, 1 makes it uniform over visible surfaces."""

_NOISE = 0.004
"""Standard deviation of a measured distance, meters."""

_MIXED_SHARE = 0.003
"""Fraction of points between two surfaces, as at edges; their class is unknown."""


@dataclass(frozen=True)
class _Piece:
    """A piece of furniture: solids in a local frame, whose origin is at (x, y), rotated by `angle`."""

    kind: str
    parts: Parts
    x: float
    y: float
    angle: float
    radius: float
    """Radius of the circle around it, for collision checks."""
    color: np.ndarray


def generate_room(seed: int, index: int, num_points: int | None = None) -> Scene:
    """Generate a room with normals, colors and the classes `ROOM_CLASSES`.

    Args:
        seed: seed of all rooms.
        index: number of the room.
        num_points: N; None: random, 20,000 to 50,000.
    """
    rng = np.random.default_rng([seed, index])
    size = np.array([rng.uniform(3.5, 6.0), rng.uniform(3.0, 5.0), rng.uniform(2.4, 3.0)])
    count = int(rng.integers(20_000, 50_001))  # always drawn, so that num_points does not change the room
    count = num_points or count
    pieces = _furnish(rng, size)
    shell_colors = 1 - rng.random((3, 3)) * np.array([[0.6], [0.35], [0.15]])
    scanners = _scanners(rng, size, pieces)
    rays = math.ceil(count * _RAYS_PER_POINT / len(scanners))
    scans = [_scan(rng, origin, rays, size, pieces, shell_colors) for origin in scanners]
    coord, normal, color, segment, area = (np.concatenate(columns) for columns in zip(*scans, strict=True))
    # Sampling without replacement, weighted by the area that a ray covers (Efraimidis and Spirakis, 2006).
    kept = np.sort(np.argpartition(rng.exponential(size=len(area)) / area**_EVENNESS, count - 1)[:count])
    arrays = SceneArrays(coord[kept], normal=normal[kept], color=color[kept], segment=segment[kept])
    return make_scene(arrays)


def _furnish(rng: np.random.Generator, size: np.ndarray) -> list[_Piece]:
    pieces: list[_Piece] = []

    def place(kind: str, parts: Parts, half_x: float, half_y: float, at_wall: bool) -> _Piece | None:
        """Add a piece in a free spot; None if none is found."""
        radius = math.hypot(half_x, half_y)
        for _ in range(20):
            if at_wall:
                x, y, angle = _at_wall(rng, size, half_x, half_y)
            else:
                margin = radius + 0.1
                if (size[:2] < 2 * margin).any():
                    return None
                x, y = rng.uniform(margin, size[:2] - margin)
                angle = rng.uniform(0, 2 * math.pi)
            if all(math.hypot(x - p.x, y - p.y) > 0.75 * (radius + p.radius) for p in pieces):
                pieces.append(_Piece(kind, parts, x, y, angle, radius, rng.uniform(0.1, 0.95, 3)))
                return pieces[-1]
        return None

    for _ in range(int(rng.integers(1, 4))):
        half_x, half_y = rng.uniform(0.55, 1.0), 0.18
        place("shelf", shelf(rng, half_x, half_y), half_x, half_y, at_wall=True)
    if rng.random() < 0.7:
        half_x = rng.uniform(0.7, 1.05)
        place("sofa", sofa(rng, half_x), half_x, 0.42, at_wall=True)
    for _ in range(int(rng.integers(1, 3))):
        half_x, half_y = rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.5)
        desk = place("table", table(rng, half_x, half_y), half_x, half_y, at_wall=False)
        if desk is not None:
            pieces += _chairs_around(rng, size, desk, half_x, half_y)
    for _ in range(int(rng.integers(1, 4))):
        place("chair", chair(rng), 0.24, 0.24, at_wall=False)
    for _ in range(int(rng.integers(1, 3))):
        place("lamp", standing_lamp(rng), 0.2, 0.2, at_wall=True)
    for _ in range(int(rng.integers(2, 5))):
        half_x, half_y = rng.uniform(0.18, 0.4), rng.uniform(0.18, 0.35)
        place("box", crate(rng, half_x, half_y), half_x, half_y, at_wall=rng.random() < 0.5)
    for x in np.linspace(0, size[0], int(rng.integers(1, 3)) + 2)[1:-1]:
        lamp = hanging_lamp(rng, float(size[2]))
        pieces.append(_Piece("lamp", lamp, float(x), float(size[1] / 2), 0.0, 0.25, rng.uniform(0.6, 1.0, 3)))
    return pieces


def _at_wall(rng: np.random.Generator, size: np.ndarray, half_x: float, half_y: float) -> tuple[float, float, float]:
    """A position with the back (positive y) against one of the four walls: x, y and angle."""
    wall = int(rng.integers(4))
    along, depth = (size[0], size[1]) if wall % 2 == 0 else (size[1], size[0])
    position = rng.uniform(half_x + 0.05, along - half_x - 0.05)
    x, y = ((position, depth - half_y - 0.03), (half_y + 0.03, position))[wall % 2]
    if wall == 2:
        y = half_y + 0.03
    elif wall == 3:
        x = size[0] - half_y - 0.03
    return float(x), float(y), (0.0, math.pi / 2, math.pi, -math.pi / 2)[wall]


def _chairs_around(
    rng: np.random.Generator, size: np.ndarray, desk: _Piece, half_x: float, half_y: float
) -> list[_Piece]:
    color = rng.uniform(0.1, 0.95, 3)
    parts = chair(rng)
    chairs = []
    for side in (-1, 1):
        for along in (-0.4, 0.4) if half_x > 0.7 else (0.0,):
            if rng.random() < 0.25:
                continue
            away = side * (half_y + rng.uniform(0.02, 0.3))
            x = desk.x + math.cos(desk.angle) * along * half_x - math.sin(desk.angle) * away
            y = desk.y + math.sin(desk.angle) * along * half_x + math.cos(desk.angle) * away
            if not (0.35 < x < size[0] - 0.35 and 0.35 < y < size[1] - 0.35):
                continue
            angle = desk.angle + (0 if side > 0 else math.pi) + rng.normal(0, 0.15)
            chairs.append(_Piece("chair", parts, x, y, angle, 0.34, color))
    return chairs


def _scanners(rng: np.random.Generator, size: np.ndarray, pieces: list[_Piece]) -> list[np.ndarray]:
    """Two to four scanner positions, clear of the furniture."""
    places: list[np.ndarray] = []
    wanted = int(rng.integers(2, 5))
    for attempt in range(200):
        place = np.array([*rng.uniform(0.8, size[:2] - 0.8), rng.uniform(1.3, 1.7)], np.float32)
        if attempt > 100 or all(math.hypot(place[0] - p.x, place[1] - p.y) > p.radius + 0.1 for p in pieces):
            places.append(place)
        if len(places) == wanted:
            break
    return places


def _scan(
    rng: np.random.Generator,
    origin: np.ndarray,
    count: int,
    size: np.ndarray,
    pieces: list[_Piece],
    shell_colors: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Scan the room from `origin`: coordinates, normals and colors `(M, 3)`, classes and areas `(M,)`."""
    z = rng.uniform(-0.98, 0.65, count)  # uniform on the sphere: its area is proportional to height
    azimuth = rng.uniform(0, 2 * math.pi, count)
    horizontal = np.sqrt(1 - z * z)
    direction = np.stack([horizontal * np.cos(azimuth), horizontal * np.sin(azimuth), z], axis=1).astype(np.float32)

    # The room itself, from inside: the nearest plane along each ray.
    planes = np.where(direction > 0, size.astype(np.float32), 0)
    to_planes = (planes - origin) / np.where(direction == 0, np.float32(1e-12), direction)
    axis = to_planes.argmin(axis=1)
    rows = np.arange(count)
    distance = to_planes[rows, axis]
    normal = np.zeros_like(direction)
    normal[rows, axis] = -np.sign(direction[rows, axis])
    upward = direction[:, 2] > 0
    segment = np.where(axis < 2, 1, np.where(upward, 2, 0))
    color = shell_colors[segment].astype(np.float32)

    for piece in pieces:
        _draw(piece, origin, direction, distance, normal, segment, color)

    facing = np.abs((normal * direction).sum(axis=1))
    shade = 0.65 + 0.35 * facing
    color = np.clip(color * shade[:, None] + rng.normal(0, 0.02, (count, 1)) + rng.normal(0, 0.015, (count, 3)), 0, 1)
    measured = distance + rng.normal(0, _NOISE, count)
    mixed = rng.random(count) < _MIXED_SHARE
    measured = np.where(mixed, measured * rng.uniform(0.6, 1.0, count), measured)
    segment = np.where(mixed, IGNORE, segment)
    return origin + measured[:, None] * direction, normal, color, segment, distance**2 / np.maximum(facing, 0.05)


def _draw(
    piece: _Piece,
    origin: np.ndarray,
    direction: np.ndarray,
    distance: np.ndarray,
    normal: np.ndarray,
    segment: np.ndarray,
    color: np.ndarray,
) -> None:
    """Stop the rays that hit a piece before anything else; changes the arrays in place."""
    cos, sin = math.cos(piece.angle), math.sin(piece.angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)  # v @ rotation is v in the local frame
    offset = np.array([piece.x, piece.y, 0], np.float32)
    # Rays that pass its vertical axis at a distance cannot hit it.
    to_axis = offset[:2] - origin[:2]
    miss_distance = np.abs(direction[:, 0] * to_axis[1] - direction[:, 1] * to_axis[0])
    horizontal = np.sqrt(direction[:, 0] ** 2 + direction[:, 1] ** 2)
    rays = np.flatnonzero(miss_distance <= piece.radius * horizontal)
    local_direction = direction[rays] @ rotation
    local_origin = (origin - offset) @ rotation
    for part in piece.parts:
        reached, outward = part.hit(local_origin, local_direction)
        nearer = reached < distance[rays]
        hit_rays = rays[nearer]
        distance[hit_rays] = reached[nearer]
        normal[hit_rays] = outward[nearer] @ rotation.T
        segment[hit_rays] = ROOM_CLASSES.index(piece.kind)
        color[hit_rays] = piece.color
