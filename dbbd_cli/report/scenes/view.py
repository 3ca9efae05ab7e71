"""Render a point cloud seen from above: N points, H by W pixels.

Matplotlib's 3D axes sort whole collections by depth and have no shading. Rendering the pixels here is as fast, with
correct occlusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Scenes at least this high (meters) are taken for rooms, whose ceilings would hide everything else.
_ROOM_HEIGHT = 1.8
_KEPT_HEIGHT = 0.75
# Distance of the camera from the center of the scene, in units of half its longest side; its tilt.
_DISTANCE = 2.1
_TILT = math.radians(24)
# Outliers do not set the scale.
_FIELD_PERCENTILES = (0.3, 99.7)
_MARGIN = 0.03
_MIN_SIDE = 8
# A point is drawn as a disc that reaches its neighbors. Radius, in units of the local point spacing, which is estimated
# from counts in cells of about `_CELL_POINTS` points; limits in medians, pixels, and fractions of the image.
_REACH = 1.15
_CELL_POINTS = 6
_MAX_OF_MEDIAN = 2.2
_MIN_RADIUS = 1.5
_MAX_RADIUS = 0.025
_CURVATURE = 0.012
# Eye-dome lighting (Boucheny, 2009): a pixel is darker the farther it lies behind its surroundings. Depth steps below
# `_FLAT`, the slope of a surface, do not count; larger ones count up to `_DEEPEST_STEP`.
_LIGHT_STRENGTH = 2.2
_LIGHT_REACH = 0.002
_FLAT = 0.003
_DEEPEST_STEP = 0.1
_DARKEST = 0.35
# Few shades keep files small.
_SHADES = 16
_BACKGROUND_DEPTH = 1e6
_NO_POINT = np.iinfo(np.uint64).max


@dataclass(frozen=True, eq=False)
class SceneView:
    """The visible points of a scene.

    Attributes:
        owner: the point visible in each pixel, (H, W) int32; -1 for none.
        shade: from 0, dark, to 1, (H, W) float32.
        cut: height above the floor above which points were removed, meters; None if all were kept.
    """

    owner: np.ndarray
    shade: np.ndarray
    cut: float | None

    @property
    def seen(self) -> np.ndarray:
        """The visible points, ascending."""
        return np.unique(self.owner[self.owner >= 0])

    def paint(self, color: np.ndarray) -> np.ndarray:
        """The image, (H, W, 4) uint8, with a transparent background, from point colors (N, 3) from 0 to 1."""
        covered = self.owner >= 0
        image = np.zeros((*self.owner.shape, 4), np.uint8)
        shaded = color[self.owner[covered]] * self.shade[covered][:, None]
        image[covered, :3] = np.rint(255 * np.clip(shaded, 0, 1))
        image[covered, 3] = 255
        return image


def view_scene(coord: np.ndarray, width: int, height: int) -> SceneView:
    """View a scene from above, without its ceiling, with its longer side horizontal.

    Args:
        coord: meters, z up, (N, 3), finite; N at least 1.
        width: maximum W.
        height: maximum H.
    """
    points = _axis_aligned(coord.astype(np.float64))
    floor, top = _floor(points[:, 2]), cut_height(points[:, 2])
    cut = None if top is None else top - floor
    kept = np.arange(len(points)) if top is None else np.flatnonzero(points[:, 2] <= top)
    x, y, depth = _projected(points[kept])
    column, row, size = _fitted(x, y, width, height)
    owner, seen_depth = _splat(column, row, depth, size)
    covered = owner >= 0
    owner[covered] = kept[owner[covered]]
    return SceneView(owner, _light(seen_depth), cut)


def cut_height(height: np.ndarray) -> float | None:
    """The height above which the ceiling of a room is left out, of points of heights `(N,)`, meters; None: no room."""
    floor, top = _floor(height), float(np.percentile(height, 99.5))
    return floor + _KEPT_HEIGHT * (top - floor) if top - floor >= _ROOM_HEIGHT else None


def _floor(height: np.ndarray) -> float:
    return float(np.percentile(height, 0.5))


def _axis_aligned(points: np.ndarray) -> np.ndarray:
    """The points, centered and rotated about z to the smallest bounding box, the longer side along x."""
    points = points - (points.min(axis=0) + points.max(axis=0)) / 2
    best = (math.inf, 0.0)
    flat = points[:: max(1, len(points) // 5000), :2]
    for angle in np.radians(np.arange(0, 180, 3)):
        across = flat @ [math.cos(angle), math.sin(angle)]
        along = flat @ [-math.sin(angle), math.cos(angle)]
        sides = [float(np.subtract(*np.percentile(side, [99, 1]))) for side in (across, along)]
        if sides[0] >= sides[1]:
            best = min(best, (sides[0] * sides[1], float(angle)))
    cos, sin = math.cos(best[1]), math.sin(best[1])
    aligned: np.ndarray = points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return aligned


def _projected(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Horizontal and vertical position and depth, each (N,); perspective, so that walls show their inner side."""
    low, high = np.percentile(points, _FIELD_PERCENTILES, axis=0)
    half = max(float((high - low).max()) / 2, 1e-9)
    moved = (points - (low + high) / 2) / half
    cos, sin = math.cos(_TILT), math.sin(_TILT)
    upwards = moved[:, 1] * cos + moved[:, 2] * sin
    depth = np.maximum(_DISTANCE - (moved[:, 2] * cos - moved[:, 1] * sin), 0.1)
    return moved[:, 0] / depth, upwards / depth, depth


def _fitted(x: np.ndarray, y: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Column and row of each point, (N,) int64, and the size (H, W) of an image that fits all but outliers."""
    (left, right), (bottom, top) = (np.percentile(axis, _FIELD_PERCENTILES) for axis in (x, y))
    spans = max(right - left, 1e-9), max(top - bottom, 1e-9)
    scale = min(width / spans[0], height / spans[1]) * (1 - 2 * _MARGIN)
    columns, rows = (
        max(_MIN_SIDE, min(most, math.ceil(scale * span / (1 - 2 * _MARGIN))))
        for span, most in zip(spans, (width, height), strict=True)
    )
    column = (x - (left + right) / 2) * scale + columns / 2
    row = ((bottom + top) / 2 - y) * scale + rows / 2
    # Clipped far outside the image, to fit into integers.
    column, row = (np.floor(np.clip(place, -1e6, 1e6)).astype(np.int64) for place in (column, row))
    return column, row, (rows, columns)


def _splat(
    column: np.ndarray, row: np.ndarray, depth: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest point of each pixel, -1 for none, and its depth, infinite for none: (H, W) each."""
    radius = _radii(column, row, size)
    near, far = float(depth.min()), float(depth.max())
    steps_per_unit = (2**31 - 1) / max(far - near, 1e-9)
    # Depth in the upper 32 bits and point in the lower: the minimum is the nearest point.
    winner = np.full(size[0] * size[1], _NO_POINT, np.uint64)
    reach = int(radius.max())
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            distance = math.hypot(down, right)
            if distance > radius.max():
                continue
            rows, columns = row + down, column + right
            chosen = np.flatnonzero(
                (radius >= distance) & (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
            )
            # Discs bend away at the rim, so that two on the same surface meet halfway.
            bent = depth[chosen] - near + _CURVATURE * (distance / radius[chosen]) ** 2
            key = np.minimum(bent * steps_per_unit, 2.0**32 - 2).astype(np.uint64) << np.uint64(32) | chosen.astype(
                np.uint64
            )
            np.minimum.at(winner, rows[chosen] * size[1] + columns[chosen], key)
    covered = winner != _NO_POINT
    owner = np.where(covered, (winner & np.uint64(2**32 - 1)).astype(np.int64), -1)
    seen = np.where(covered, near + (winner >> np.uint64(32)) / steps_per_unit, np.inf)
    return owner.reshape(size), seen.reshape(size)


def _radii(column: np.ndarray, row: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The disc radius of each point in pixels, (N,): larger where points are sparse."""
    cell = max(2.0, math.sqrt(size[0] * size[1] * _CELL_POINTS / len(column)))
    across, down = (int(side / cell) + 1 for side in (size[1], size[0]))
    cells = np.clip(row / cell, 0, down - 1).astype(np.int64) * across
    cells += np.clip(column / cell, 0, across - 1).astype(np.int64)
    radius = _REACH * cell / np.sqrt(np.bincount(cells)[cells])
    largest = min(_MAX_OF_MEDIAN * float(np.median(radius)), max(size) * _MAX_RADIUS)
    return np.clip(radius, _MIN_RADIUS, max(_MIN_RADIUS, largest))


def _light(depth: np.ndarray) -> np.ndarray:
    """Eye-dome lighting of depths (H, W), infinite for the background: from 0, dark, to 1."""
    step = max(1, round(max(depth.shape) * _LIGHT_REACH))
    # The background is very far away, but finite so that it can be subtracted; it neither casts nor receives shade.
    log_depth = np.log(np.where(np.isfinite(depth), depth, _BACKGROUND_DEPTH))
    around = np.pad(log_depth, 2 * step, constant_values=math.log(_BACKGROUND_DEPTH))
    behind = np.zeros_like(log_depth)
    height, width = depth.shape
    for reach in (step, 2 * step):
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            top, left = 2 * step + down * reach, 2 * step + right * reach
            step_down = log_depth - around[top : top + height, left : left + width]
            behind += np.clip(step_down - _FLAT, 0, _DEEPEST_STEP)
    light = _DARKEST + (1 - _DARKEST) * np.exp(-_LIGHT_STRENGTH * behind)
    return (np.rint(light * _SHADES) / _SHADES).astype(np.float32)
