"""Rays hit solids where a march along them enters, with the outward normal there."""

import numpy as np
import pytest

from dbbd_cli.data.scenes.synthetic_rooms.solids import Ball, Box, Cylinder

SOLIDS = {
    "box": (
        Box((0.2, -0.1, 0.5), (0.5, 0.3, 0.4)),
        lambda p: np.max(np.abs(p - [0.2, -0.1, 0.5]) / [0.5, 0.3, 0.4], axis=-1),
    ),
    "cylinder": (
        Cylinder((0.2, -0.1, 0.5), 0.4, 0.6),
        lambda p: np.maximum(np.linalg.norm(p[..., :2] - [0.2, -0.1], axis=-1) / 0.4, np.abs(p[..., 2] - 0.5) / 0.6),
    ),
    "ball": (Ball((0.2, -0.1, 0.5), 0.6), lambda p: np.linalg.norm(p - [0.2, -0.1, 0.5], axis=-1) / 0.6),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("origin", [(2.0, 1.0, 0.5), (0.3, 0.1, 3.0), (0.1, 0.0, -2.0), (-1.5, 2.0, 2.5)])
def test_rays_stop_where_a_march_along_them_stops(name, origin):
    solid, gauge = SOLIDS[name]
    origin = np.array(origin, np.float32)
    rng = np.random.default_rng(0)
    direction = np.array([0.2, -0.1, 0.5]) - origin + rng.uniform(-1, 1, (200, 3))
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    distance, normal = solid.hit(origin, direction)
    steps = np.linspace(0, 6, 1501)
    inside = gauge(origin + direction[:, None] * steps[:, None]) <= 1
    met = np.isfinite(distance)
    clear = gauge(origin + direction[:, None] * steps[:, None]).min(axis=1)
    sure = np.abs(clear - 1) > 0.02  # rays that only touch an edge may count as hit or miss
    np.testing.assert_array_equal(met[sure], inside.any(axis=1)[sure])
    assert 20 < (met & sure).sum() < 200
    both = met & sure
    np.testing.assert_allclose(distance[both], steps[inside[both].argmax(axis=1)], atol=0.006)
    point = origin + distance[both, None] * direction[both]
    np.testing.assert_allclose(gauge(point), 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(normal[both], axis=1), 1, atol=1e-3)
    assert ((normal[both] * direction[both]).sum(axis=1) < 0).all()
    assert (gauge(point + 0.01 * normal[both]) > 1).all()
