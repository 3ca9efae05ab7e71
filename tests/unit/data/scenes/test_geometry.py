"""Geometry features, compared with NumPy on neighborhoods found by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.data.scenes.geometry import GEOMETRY_NAMES, NEIGHBORS, geometry_features

HALF = 2e-3
"""Relative precision of float16, with room for the closed form of the eigenvalues."""


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, GEOMETRY_NAMES.index(name)].astype(np.float64)


def cloud(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32) * np.float32([4, 3, 1])


def test_a_neighborhood_has_the_covariance_of_its_nearest_points() -> None:
    coord = cloud(600)
    features = geometry_features(coord)
    for point in range(0, 600, 50):
        order = np.argsort(np.linalg.norm(coord.astype(np.float64) - coord[point], axis=1))
        for count in NEIGHBORS:
            values, vectors = np.linalg.eigh(np.cov(coord[order[:count]].T.astype(np.float64), bias=True))
            shares, sigma = values[::-1] / values.sum(), np.sqrt(values[::-1])
            found = {name: column(features, f"{name}_{count}")[point] for name in ("share1", "share2", "share3")}
            assert list(found.values()) == pytest.approx(shares.tolist(), abs=HALF)
            ratios = [sigma[0] - sigma[1], sigma[1] - sigma[2], sigma[2]] / sigma[0]
            names = ("linearity", "planarity", "scattering")
            assert [column(features, f"{name}_{count}")[point] for name in names] == pytest.approx(ratios, abs=HALF)
            upright = 1 - abs(vectors[2, 0])
            assert column(features, f"verticality_{count}")[point] == pytest.approx(upright, abs=HALF)


def test_the_radius_is_that_of_the_farthest_neighbor_relative_to_the_median() -> None:
    coord = cloud(400).astype(np.float64)
    distance = np.sort(np.linalg.norm(coord[:, None] - coord[None], axis=2), axis=1)
    features = geometry_features(coord.astype(np.float32))
    for count in NEIGHBORS:
        radius = np.log(distance[:, count - 1])
        assert column(features, f"radius_{count}") == pytest.approx(radius - np.median(radius), abs=HALF * 4)


def test_a_line_a_plane_and_a_wall_are_told_apart() -> None:
    random = np.random.default_rng(1)
    floor = np.stack([*random.uniform(0, 10, (2, 1000)), np.zeros(1000)], axis=1)
    wall = np.stack([*random.uniform(0, 10, (2, 1000)), np.full(1000, 40.0)], axis=1)[:, [0, 2, 1]]
    pole = np.stack([np.full(300, -60.0), np.zeros(300), np.linspace(0, 9, 300)], axis=1)
    features = geometry_features(np.concatenate([floor, wall, pole]).astype(np.float32))
    parts = {"floor": slice(0, 1000), "wall": slice(1000, 2000), "pole": slice(2000, 2300)}

    def median(part: str, name: str) -> float:
        return float(np.median(column(features, name)[parts[part]]))

    assert median("floor", "verticality_32") < 0.01 < 0.99 < median("wall", "verticality_32")
    assert median("pole", "linearity_32") > 0.99 > 0.5 > median("floor", "linearity_32")
    assert median("floor", "column_height") == 0 < median("wall", "column_height")


def test_heights_are_above_the_column_its_surroundings_and_the_scene() -> None:
    coord = cloud(3000, seed=2)
    coord[:, 2] -= coord[:, 2].min()
    features = geometry_features(coord)
    height, near, inside = (np.sinh(column(features, name)) for name in ("height", "height_near", "height_in_column"))
    assert height == pytest.approx(coord[:, 2].tolist(), rel=4 * HALF, abs=HALF)
    assert (inside <= near * (1 + 8 * HALF) + HALF).all()
    assert (near <= height * (1 + 8 * HALF) + HALF).all()
    assert (near < height - 0.1).any()


def test_neither_the_order_nor_a_turn_nor_the_number_of_threads_changes_a_neighborhood() -> None:
    coord = cloud(500)
    order = np.random.default_rng(3).permutation(500)
    turned = coord[order] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    first, second = geometry_features(coord), geometry_features(turned, num_threads=-1)
    assert np.abs(first[order, :24].astype(float) - second[:, :24].astype(float)).max() <= HALF * 4


@pytest.mark.parametrize("count", [4, 7, 40])
def test_small_and_degenerate_scenes_have_finite_features(count: int) -> None:
    line = np.zeros((count, 3), np.float32)
    line[:, 0] = np.arange(count)
    doubled = np.repeat(line[: max(2, count // 2)], 3, axis=0)
    for coord in (cloud(count), line, doubled, line * np.float32(1e8), np.ones_like(line)):
        features = geometry_features(coord)
        assert features.shape == (len(coord), len(GEOMETRY_NAMES))
        assert np.isfinite(features).all()
