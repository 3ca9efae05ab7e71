"""Describe the surroundings of each point by hand-made features, as classifiers of outdoor scans do.

Legend: N points of the scene, U places (distinct points), K neighbors of a place, itself included.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dbbd_cli.data.scenes.normals import distinct_places, search_tree, smallest_eigenvectors

NEIGHBORS = (8, 32, 128)
"""Sizes of the three neighborhoods of a point."""
_OF_NEIGHBORHOOD = ("share1", "share2", "share3", "linearity", "planarity", "scattering", "verticality", "radius")
_OF_COLUMN = ("height_near", "height", "height_in_column", "column_height", "column_density")
GEOMETRY_NAMES = (*(f"{name}_{count}" for count in NEIGHBORS for name in _OF_NEIGHBORHOOD), *_OF_COLUMN)
"""The features, in order."""
GEOMETRY_GROUPS = {"neighborhoods": len(NEIGHBORS) * len(_OF_NEIGHBORHOOD), "columns": len(_OF_COLUMN)}
"""How many of them, in this order, are of each kind."""

_CHUNK = 1024
"""Neighborhoods per pass, few enough to stay in the CPU cache."""
_NEAR = 5
"""Columns along each side of the square in which the lowest point near a point is sought."""
_TINY = 1e-12
_RADII = slice(len(_OF_NEIGHBORHOOD) - 1, None, len(_OF_NEIGHBORHOOD))
"""Places of the radii among the features of neighborhoods."""


def geometry_features(coord: np.ndarray, *, num_threads: int = 1) -> np.ndarray:
    """Compute covariance features of three neighborhoods, and heights.

    For 8, 32 and 128 neighbors: the shares of the three eigenvalues of the covariance in their sum; linearity,
    planarity and scattering from their square roots; verticality, 1 - |z of the normal| (Demantké et al.,
    "Dimensionality based scale selection in 3D lidar point clouds", 2011); and the logarithm of the radius relative to
    the median of the scene. If a scene has fewer places, all of them are neighbors.

    The scene is also divided into vertical columns as wide as the median radius of 128 neighbors: the height of a point
    above the lowest one of the 5 x 5 columns around it, of the scene, and of its column; the height of the column;
    these four as asinh; and the logarithm of the column's number of points relative to the median.

    Rotation about the vertical axis changes none but the last five, and these only as far as other columns result.

    Args:
        coord: finite coordinates `(N, 3)`, near the origin, z from the lowest point of the scene, in any unit.
        num_threads: threads that compute, -1 for one for each processor; the result does not depend on them.

    Returns:
        `(N, len(GEOMETRY_NAMES))` float16.
    """
    places, place_of = distinct_places(coord)
    count = min(max(NEIGHBORS), len(places))
    unit = _unit(coord, places)
    tree = search_tree(places)
    axes = np.ascontiguousarray(places.T)
    found = np.empty((len(places), len(NEIGHBORS) * len(_OF_NEIGHBORHOOD)), np.float16)
    radii = np.empty((len(places), len(NEIGHBORS)), np.float32)

    def describe(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        # For one neighbor, the results have one axis.
        distance, neighbors = (values.reshape(-1, count) for values in tree.query(places[rows], k=count))
        features = _neighborhoods(axes, axes[:, rows], distance * unit, neighbors).astype(np.float32)
        found[rows], radii[rows] = features.T, features[_RADII].T

    starts = range(0, len(places), _CHUNK)
    with ThreadPoolExecutor((os.cpu_count() or 1) if num_threads == -1 else num_threads) as pool:
        for _ in pool.map(describe, starts):
            pass
    width = float(np.exp(np.median(radii[:, -1])))
    found[:, _RADII] = radii - np.median(radii, axis=0)
    features = np.empty((len(coord), len(GEOMETRY_NAMES)), np.float16)
    features[:, : found.shape[1]] = found[place_of]
    features[:, found.shape[1] :] = _columns(coord.astype(np.float64), width)
    return features


def _unit(coord: np.ndarray, places: np.ndarray) -> float:
    """The size of the unit of `places` in that of `coord`; 1 if there is only one place, as in a tile of a scene."""
    extent = np.ptp(places, axis=0).max()
    return float(np.ptp(coord.astype(np.float64), axis=0).max() / extent) if extent else 1.0


def _neighborhoods(axes: np.ndarray, centers: np.ndarray, distance: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """The features of some places, feature by feature.

    Args:
        axes: all places, `(3, U)`.
        centers: the places themselves, `(3, rows)`.
        distance: to their neighbors, ascending, `(rows, K)`.
        neighbors: columns of `axes`, `(rows, K)`.
    """
    # Relative to the center, so that sums over the first neighbors lose no digits.
    offsets = [axis.take(neighbors) for axis in axes]
    for offset, center in zip(offsets, centers, strict=True):
        offset -= center[:, None]
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    total, products = np.zeros_like(centers), np.zeros((6, len(neighbors)))
    features, first = [], 0
    for wanted in NEIGHBORS:
        count = min(wanted, neighbors.shape[1])
        block = [offset[:, first:count] for offset in offsets]
        total += [offset.sum(axis=1) for offset in block]
        products += [np.einsum("rk,rk->r", block[a], block[b]) for a, b in pairs]
        first = max(first, count)
        mean = total / first
        covariance = products / first - np.stack([mean[a] * mean[b] for a, b in pairs])
        covariance /= np.maximum(covariance[:3].sum(axis=0), _TINY * _TINY)
        features.append(_shape(covariance))
        features.append(np.log(np.maximum(distance[:, first - 1], _TINY))[None])
    return np.concatenate(features)


def _shape(covariance: np.ndarray) -> np.ndarray:
    """All features of a neighborhood but its radius, `(7, rows)`, from covariances `(6, rows)` of trace 1 or 0."""
    shares = _eigenvalues(covariance)
    sigma = np.sqrt(shares)
    largest = np.maximum(sigma[0], np.sqrt(_TINY))
    ratios = np.stack([sigma[0] - sigma[1], sigma[1] - sigma[2], sigma[2]]) / largest
    verticality = 1 - np.abs(smallest_eigenvectors(covariance)[:, 2])
    return np.concatenate([shares, ratios, verticality[None]])


def _eigenvalues(covariance: np.ndarray) -> np.ndarray:
    """The eigenvalues `(3, rows)` of covariances `(6, rows)`, in descending order; see `smallest_eigenvectors`."""
    xx, yy, zz, xy, xz, yz = covariance
    third = (xx + yy + zz) / 3
    a, b, c = xx - third, yy - third, zz - third
    radius = np.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    determinant = a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)
    angle = np.arccos(np.clip(determinant / np.maximum(2 * radius**3, np.finfo(np.float64).tiny), -1, 1)) / 3
    turns = angle + np.array([0, 4, 2])[:, None] * np.pi / 3
    return np.maximum(third + 2 * radius * np.cos(turns), 0)


def _columns(coord: np.ndarray, width: float) -> np.ndarray:
    """Heights and density of the columns of each point, `(N, 5)`."""
    from scipy.spatial import cKDTree

    cell = np.floor((coord[:, :2] - coord[:, :2].min(axis=0)) / max(width, np.ptp(coord, axis=0).max() * 1e-6))
    x, y = cell.astype(np.int64).T
    side = int(y.max()) + 1
    occupied, column = np.unique(x * side + y, return_inverse=True)  # much faster than of rows
    cells = np.stack([occupied // side, occupied % side], axis=1)
    height = coord[:, 2]
    lowest, highest = np.full(len(cells), np.inf), np.zeros(len(cells))
    np.minimum.at(lowest, column, height)
    np.maximum.at(highest, column, height)
    # The occupied columns of the square around: the maximum of the two distances counts.
    around = cKDTree(cells).query(cells, k=_NEAR * _NEAR, p=np.inf, distance_upper_bound=_NEAR // 2 + 0.5)[1]
    near = np.append(lowest, np.inf)[around].min(axis=1)
    density = np.log(np.bincount(column))
    heights = np.stack([height - near[column], height, height - lowest[column], (highest - lowest)[column]])
    return np.concatenate([np.arcsinh(heights), (density - np.median(density))[column][None]]).T
