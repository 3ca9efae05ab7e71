"""Intersect rays with boxes, cylinders and balls.

A hit is the distance along each ray, `(M,)` float32, infinite if there is none, and the outward normal there, `(M, 3)`
float32. Rays start outside the solid.

Legend: M rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Hit = tuple[np.ndarray, np.ndarray]
_NEAREST = 0.05
"""Minimum range of the scanner, meters."""


@dataclass(frozen=True)
class Box:
    """An axis-parallel box around `center`, with its half sides."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]

    def hit(self, origin: np.ndarray, direction: np.ndarray) -> Hit:
        """Intersect rays from `(3,)` in the directions `(M, 3)`."""
        inverse = 1 / np.where(direction == 0, np.float32(1e-12), direction)
        middle = (np.asarray(self.center, np.float32) - origin) * inverse
        reach = np.asarray(self.half, np.float32) * np.abs(inverse)
        near = middle - reach
        axis = near.argmax(axis=1)
        rows = np.arange(len(direction))
        enter = near[rows, axis]
        distance = np.where((enter > _NEAREST) & (enter < (middle + reach).min(axis=1)), enter, np.float32(np.inf))
        normal = np.zeros_like(direction)
        normal[rows, axis] = -np.sign(direction[rows, axis])
        return distance, normal


@dataclass(frozen=True)
class Cylinder:
    """A vertical cylinder around `center`, with its caps."""

    center: tuple[float, float, float]
    radius: float
    half_height: float

    def hit(self, origin: np.ndarray, direction: np.ndarray) -> Hit:
        """Intersect rays from `(3,)` in the directions `(M, 3)`."""
        start = origin - np.asarray(self.center, np.float32)
        flat = direction[:, :2]
        a = np.maximum((flat * flat).sum(axis=1), np.float32(1e-9))
        b = flat @ start[:2]
        c = start[:2] @ start[:2] - np.float32(self.radius**2)
        root = np.sqrt(np.maximum(b * b - a * c, 0))
        side = np.where(b * b > a * c, (-b - root) / a, np.float32(np.inf))
        with np.errstate(invalid="ignore"):
            inside = (side > _NEAREST) & (np.abs(start[2] + side * direction[:, 2]) <= self.half_height)
        side = np.where(inside, side, np.float32(np.inf))
        rise = np.where(direction[:, 2] == 0, np.float32(1e-12), direction[:, 2])
        cap = (np.float32(np.copysign(self.half_height, start[2])) - start[2]) / rise
        across = start[:2] + cap[:, None] * flat
        on_cap = (cap > _NEAREST) & ((across * across).sum(axis=1) <= self.radius**2)
        distance = np.minimum(side, np.where(on_cap, cap, np.float32(np.inf)))
        normal = np.zeros_like(direction)
        hit = np.isfinite(side) & (side <= distance)
        normal[hit, :2] = (start[:2] + side[hit, None] * flat[hit]) / self.radius
        normal[~hit, 2] = np.sign(start[2])
        return distance, normal


@dataclass(frozen=True)
class Ball:
    """A ball around `center`."""

    center: tuple[float, float, float]
    radius: float

    def hit(self, origin: np.ndarray, direction: np.ndarray) -> Hit:
        """Intersect rays from `(3,)` in the directions `(M, 3)`, of length 1."""
        start = origin - np.asarray(self.center, np.float32)
        b = direction @ start
        under = b * b - (start @ start - np.float32(self.radius**2))
        distance = np.where(under > 0, -b - np.sqrt(np.maximum(under, 0)), np.float32(np.inf))
        distance = np.where(distance > _NEAREST, distance, np.float32(np.inf))
        normal = np.zeros_like(direction)
        hit = np.isfinite(distance)
        normal[hit] = (start + distance[hit, None] * direction[hit]) / np.float32(self.radius)
        return distance, normal


Solid = Box | Cylinder | Ball
