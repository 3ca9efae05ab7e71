"""Normals are perpendicular to the surface and consistently oriented, whatever the cloud, its scale and its order."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.data.scenes.normals import complete_normals, estimate_normals


def sphere(count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def box(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on the faces of a box, and the outward normals of the faces."""
    rng = np.random.default_rng(0)
    face, sign = rng.integers(0, 3, count), rng.choice([-1.0, 1.0], count)
    points, outward = rng.uniform(-1, 1, (count, 3)), np.zeros((count, 3))
    points[np.arange(count), face] = sign
    outward[np.arange(count), face] = sign
    return points * [2.0, 1.0, 0.5], outward


def inside_a_face(points: np.ndarray) -> np.ndarray:
    """Whether the points of `box` are farther from all edges than from their neighbors."""
    return np.sort(np.abs(points) - [2.0, 1.0, 0.5], axis=1)[:, 1] < -0.25


def plane(count: int, u: list[float], v: list[float]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 2)) @ np.array([u, v])


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum(axis=1)


def assert_unit(normals: np.ndarray, count: int) -> None:
    assert normals.shape == (count, 3)
    assert normals.dtype == np.float32
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_the_normals_of_a_sphere_point_outward() -> None:
    points = sphere(4000)
    normals = estimate_normals(points)
    assert_unit(normals, 4000)
    assert cosines(normals, points).min() > 0.99


def test_the_normals_of_a_box_point_outward_on_every_face() -> None:
    points, outward = box(8000)
    normals = estimate_normals(points)
    assert cosines(normals, points).min() > 0  # at edges and corners too, where the normals lie between those of faces
    assert cosines(normals, outward)[inside_a_face(points)].min() > 0.99999


def test_the_normals_of_a_floor_point_up_exactly() -> None:
    assert np.array_equal(estimate_normals(plane(500, [1, 0, 0], [0, 1, 0])), np.tile(np.float32([0, 0, 1]), (500, 1)))


@pytest.mark.parametrize(
    ("u", "v", "normal"),
    [
        ([1, 0, 0], [0, 0, 1], [0, 1, 0]),
        ([0, 1, 0], [0, 0, 1], [1, 0, 0]),
        ([1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]),
        ([0.8, 0, -0.6], [0, 1, 0], [0.6, 0, 0.8]),
    ],
)
def test_all_normals_of_a_plane_point_the_same_way(u: list[float], v: list[float], normal: list[float]) -> None:
    normals = estimate_normals(plane(800, u, v))
    assert np.allclose(normals, np.broadcast_to(normal, (800, 3)), atol=1e-4)


def test_separate_components_are_oriented_one_by_one() -> None:
    """Two distant walls point away from the middle; a floor and a shelf above it point up."""
    wall, floor = plane(400, [1, 0, 0], [0, 0, 1]), plane(400, [1, 0, 0], [0, 1, 0])
    aside, above = np.array([0, 9, 0]), np.array([0, 0, 5])
    parts = [wall + aside, wall - aside, floor - above, floor + above]
    normals = estimate_normals(np.concatenate(parts))
    expected = np.repeat([[0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, 1]], 400, axis=0)
    assert cosines(normals, expected).min() > 0.999


def test_in_a_room_without_a_ceiling_the_floor_points_up_and_the_walls_inward() -> None:
    points, outward = box(12_000)
    keep = points[:, 2] < 0.4
    points, outward = points[keep], outward[keep]
    assert cosines(estimate_normals(points), -outward)[inside_a_face(points)].min() > 0.999


def test_the_ground_points_up_whatever_is_above_it() -> None:
    """A sphere far above it, a pole that touches it, and stray points higher than both."""
    rng = np.random.default_rng(2)
    ground = np.concatenate([rng.uniform(-5, 5, (4000, 2)), 0.01 * rng.normal(size=(4000, 1))], axis=1)
    angle, height = rng.uniform(0, 2 * np.pi, 500), rng.uniform(0, 3, 500)
    pole = np.stack([0.1 * np.cos(angle), 0.1 * np.sin(angle), height], axis=1)
    stray = rng.uniform(-1, 1, (20, 3)) + np.array([0, 0, 12])
    ball = sphere(500) + np.array([0, 0, 8])
    normals = estimate_normals(np.concatenate([ground, pole, stray, ball]))
    assert (normals[:4000, 2] > 0.5).mean() > 0.97
    assert cosines(normals[-500:], sphere(500)).min() > 0.9


def test_neighbors_agree_on_a_wavy_surface_with_noise() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-3, 3, (2, 6000))
    points = np.stack([x, y, np.sin(2 * x) * np.cos(2 * y) + 0.005 * rng.normal(size=6000)], axis=1)
    slope = np.stack([-2 * np.cos(2 * x) * np.cos(2 * y), 2 * np.sin(2 * x) * np.sin(2 * y), np.ones(6000)], axis=1)
    cosine = cosines(estimate_normals(points), slope / np.linalg.norm(slope, axis=1, keepdims=True))
    assert cosine.min() > 0
    assert np.median(cosine) > 0.99


def test_outliers_do_not_flip_the_surface_near_them() -> None:
    """Orientation must propagate around outliers, not through them."""
    radius = np.random.default_rng(1).uniform(0.7, 1.3, (300, 1))
    points = np.concatenate([sphere(3000), sphere(300, seed=1) * radius])
    assert (cosines(estimate_normals(points), points)[:3000] > 0).mean() > 0.999


def test_a_sparse_part_agrees_with_the_dense_part_that_it_continues() -> None:
    """Sparse points have dense neighbors, but not the other way round; alone they would flip."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, np.pi, 6000), np.linspace(np.pi, 2 * np.pi, 200)])
    points = np.stack([x, np.sin(x), rng.uniform(0, 0.1, len(x))], axis=1)
    along = np.stack([-np.cos(x), np.ones(len(x)), np.zeros(len(x))], axis=1)
    agreement = cosines(estimate_normals(points), along)
    assert (agreement[:6000] > 0).mean() == (agreement[6000:] > 0).mean() == (agreement[0] > 0)


def test_the_normals_of_distant_small_bodies_point_outward() -> None:
    center = np.random.default_rng(0).uniform(-10, 10, (12, 3))
    outward = np.concatenate([sphere(120, seed=number) for number in range(12)])
    normals = estimate_normals(np.repeat(center, 120, axis=0) + 0.05 * outward)
    assert cosines(normals, outward).min() > 0.7


def test_normals_do_not_depend_on_the_origin() -> None:
    points = np.round(sphere(1500) * 2.0**20) / 2.0**20  # the sum below is exact
    near = estimate_normals(points)
    far = estimate_normals(points + np.array([2.0**19, 2.0**22, 2.0**8]))
    assert np.allclose(near, far, atol=1e-5)
    assert cosines(far, points).min() > 0.98


def test_normals_do_not_depend_on_the_scale() -> None:
    points = sphere(500)
    expected = estimate_normals(points)
    for scale in (2.0**-1000, 2.0**1020):
        assert np.array_equal(estimate_normals(points * scale), expected)


def test_normals_rotate_with_the_points() -> None:
    points, _ = box(3000)
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    assert np.median(cosines(estimate_normals(points @ turn.T), estimate_normals(points) @ turn.T)) > 0.9999
    assert cosines(estimate_normals(points @ turn.T), estimate_normals(points) @ turn.T).min() > 0.999


def test_normals_do_not_depend_on_order_type_or_threads() -> None:
    points, _ = box(1000)
    points = points.astype(np.float32)
    normals = estimate_normals(points)
    assert np.array_equal(estimate_normals(points), normals)
    assert np.array_equal(estimate_normals(points, num_threads=2), normals)
    assert np.array_equal(estimate_normals(points.astype(np.float64)), normals)
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(estimate_normals(points[order]), normals[order])


def test_coincident_points_count_once() -> None:
    points = sphere(600)
    of = np.concatenate([np.arange(600), np.zeros(5000, dtype=int), np.arange(600)])
    assert np.array_equal(estimate_normals(points[of]), estimate_normals(points)[of])


def test_copies_of_grid_points_count_once() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 8)] * 3), axis=-1).reshape(-1, 3) @ np.diag([1, 2, 3])
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(grid)), 30))
    assert np.array_equal(estimate_normals(grid[order]), estimate_normals(grid)[order])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20, 300])
@pytest.mark.parametrize(
    "line", [[1, 0, 0], [0, 0, 1], [1, 2, 3], [0, 0, 0]], ids=["level", "upright", "slanted", "place"]
)
def test_the_normals_of_a_line_are_perpendicular_and_as_upright_as_possible(count: int, line: list[float]) -> None:
    points = np.random.default_rng(count).random((count, 1)) * np.array([line], dtype=np.float64)
    normals = estimate_normals(points.astype(np.float32))
    assert_unit(normals, count)
    if count == 1 or not any(line):
        assert np.array_equal(normals, np.tile(np.float32([0, 0, 1]), (count, 1)))
        return
    direction = np.array(line) / np.linalg.norm(line)
    across = np.array([1.0, 0, 0]) if line[:2] == [0, 0] else np.array([0, 0, 1]) - direction[2] * direction
    assert np.allclose(normals, across / np.linalg.norm(across), atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_few_random_points_have_normals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for count in range(1, 21):
        for points in (rng.random((count, 3)), rng.integers(0, 2, (count, 3)), rng.random((count, 3)) * 1e-200):
            assert_unit(estimate_normals(np.asarray(points, dtype=np.float64)), count)


def test_many_coincident_points_are_handled() -> None:
    points = np.concatenate([sphere(2000), np.zeros((100_000, 3))])  # 10^10 distances if each were counted
    normals = estimate_normals(points)
    assert_unit(normals, 102_000)


def without(normals: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    return np.where(unknown[:, None], 0, normals).astype(np.float32)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("side", [1, -1])
def test_missing_normals_point_to_the_side_of_the_known_ones(share: float, side: int) -> None:
    points = sphere(2000)
    unknown = np.random.default_rng(1).random(2000) < share
    known = (side * points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    completed = complete_normals(points, without(known, unknown))
    assert completed.dtype == np.float32
    assert_unit(completed, 2000)
    assert np.array_equal(completed[~unknown], known[~unknown])
    assert (cosines(completed, known) > 0.95).all()


def test_each_component_follows_its_own_known_normals() -> None:
    one, two = sphere(800), sphere(800, seed=1) + np.array([10, 0, 0])
    truth = np.concatenate([sphere(800), -sphere(800, seed=1)])
    unknown = np.random.default_rng(0).random(1600) < 0.3
    completed = complete_normals(np.concatenate([one, two]), without(truth, unknown))
    assert (cosines(completed, truth) > 0.9).all()


def test_a_single_known_normal_decides_for_all() -> None:
    points = plane(500, [1, 0, 0], [0, 1, 0])
    normals = np.zeros((500, 3), dtype=np.float32)
    normals[7] = [0, 0, -1]
    assert np.allclose(complete_normals(points, normals), [0, 0, -1], atol=1e-5)


def test_many_coincident_known_normals_are_handled() -> None:
    points = np.concatenate([sphere(2000), np.zeros((50_000, 3))])
    normals = np.zeros((52_000, 3), dtype=np.float32)
    normals[::2] = [0, 0, 1]
    assert_unit(complete_normals(points, normals), 52_000)
