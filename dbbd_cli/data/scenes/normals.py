"""Estimate surface normals from coordinates alone.

Legend: N points of the scene, U places (distinct points), K neighbors of a place, itself included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

_CHUNK = 16384
"""Neighborhoods per pass, few enough to stay in the CPU cache."""
_LEAF_PLACES = 24
"""Places in a leaf of the tree in which neighbors are searched for."""
_ORIENTING_NEIGHBORS = 8
"""Neighbors that a normal may be oriented by; fewer than K, because sorting the edges is slow."""
_KNOWN_NEIGHBORS = 8
"""Nearest known normals that decide the orientation of an estimated one."""
_FLAT = 1e-6
"""A neighborhood is a line if its second largest variance is at most this fraction of the total."""
_MIN_GAP = 1e-3
"""With at least this gap between the roots, the closed form is accurate to 1e-10."""
_UP = np.array([1e-3, 1e-4, 4.0])
"""Weight of the upward direction in the vote, compared with 1 for outward: in a room without a ceiling, the normals of
the floor point up and those of the walls inward. x and y decide for a wall through the middle of the scene, which faces
neither up nor outward."""
_AWAY = 0.5
"""Weight of the direction away from the middle of the scene."""


def estimate_normals(coord: np.ndarray, *, num_neighbors: int = 16, num_threads: int = 1) -> np.ndarray:
    """Estimate consistently oriented normals: the direction in which each point's nearest neighbors vary least.

    Orientation is propagated along a minimum spanning tree of the neighbor graph, whose edges cost 1 - |cos| of the
    angle between two normals (Hoppe et al., 1992). Each connected component is then oriented as a whole, by a vote of
    its points: up (z), like ground, floors and table tops; if that is a draw, as on a closed body, outward; and if that
    is a draw too, as on a wall, away from the middle of the scene.

    Coincident points count once. If the neighbors lie on a line, the normal is perpendicular to it and as upright as
    possible; a scene with a single place has the normal (0, 0, 1).

    Args:
        coord: finite coordinates, `(N, 3)`, at any distance from the origin.
        num_neighbors: K, the places that a normal is estimated from, including its own; at least 3.
        num_threads: threads that search for neighbors, -1 for all; the result does not depend on them.

    Returns:
        Normals of length 1, `(N, 3)` float32.
    """
    places, place_of = distinct_places(coord)
    if len(places) == 1:
        return np.tile(np.array([0, 0, 1], dtype=np.float32), (len(coord), 1))
    distance, neighbors = _neighbors(places, min(num_neighbors, len(places)), num_threads)
    normals = np.empty_like(places)
    for start in range(0, len(places), _CHUNK):
        rows = slice(start, start + _CHUNK)
        normals[rows] = smallest_eigenvectors(_covariance(places, neighbors[rows]))
    few = slice(1, _ORIENTING_NEIGHBORS + 1)
    _orient(normals, places, distance[:, few], neighbors[:, few])
    return normals.astype(np.float32)[place_of]


def complete_normals(
    coord: np.ndarray, normal: np.ndarray, *, num_neighbors: int = 16, num_threads: int = 1
) -> np.ndarray:
    """Estimate the unknown normals, oriented consistently with the known ones.

    If the nearest known normals are opposite to the estimates for the same points, the estimate is flipped: both are
    oriented consistently along the surface.

    Args:
        coord: coordinates, `(N, 3)`.
        normal: `(N, 3)`, of length 1, or 0 where none is known; at least one is known.
        num_neighbors: as for `estimate_normals`.
        num_threads: as for `estimate_normals`.

    Returns:
        Normals of length 1, `(N, 3)` float32; the known ones are unchanged.
    """
    known = normal.any(axis=1)
    if known.all():
        return normal
    from scipy.spatial import cKDTree

    estimate = estimate_normals(coord, num_neighbors=num_neighbors, num_threads=num_threads)
    places, place_of = distinct_places(coord)
    agreement = (estimate[known].astype(np.float64) * normal[known]).sum(axis=1)
    agreement = np.bincount(place_of[known], agreement, minlength=len(places))
    near = np.flatnonzero(np.bincount(place_of[known], minlength=len(places)))
    ranks = [*range(1, min(_KNOWN_NEIGHBORS, len(near)) + 1)]
    nearest = near[cKDTree(places[near]).query(places, k=ranks, workers=num_threads)[1]]
    against = agreement[nearest].sum(axis=1)[place_of] < 0
    completed = np.where(against[:, None], -estimate, estimate)
    completed[known] = normal[known]
    return completed


def distinct_places(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of a scene, `(U, 3)`, and the place of each point, `(N,)`.

    Places are float64, relative to the middle of the scene, in units of about its size. Those near each other are
    mostly near each other in the array too: a search for the neighbors of all places is faster in this order.
    """
    from scipy.spatial import cKDTree

    axes = np.ascontiguousarray(coord.T, dtype=np.float64)
    axes = np.ldexp(axes, -np.frexp(np.abs(axes).max())[1])
    axes -= (axes.max(axis=1, keepdims=True) + axes.min(axis=1, keepdims=True)) / 2
    axes = np.ldexp(axes, -np.frexp(np.abs(axes).max())[1])
    order = np.argsort(axes[0])
    same = np.diff(axes[0, order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    order[tied] = order[tied][np.lexsort(axes[::-1, order[tied]])]
    ordered = axes[:, order]
    new = np.concatenate([[True], (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)])
    place_of = np.empty(len(order), dtype=np.int64)
    place_of[order] = np.cumsum(new) - 1
    places = np.ascontiguousarray(ordered[:, new].T)
    nearby = cKDTree(places).indices
    rank = np.empty_like(nearby)
    rank[nearby] = np.arange(len(nearby))
    return places[nearby], rank[place_of]


def search_tree(places: np.ndarray) -> cKDTree:
    """The tree in which the neighbors of places `(U, 3)` are searched for."""
    from scipy.spatial import cKDTree  # here and elsewhere: SciPy is slow to import, and few scenes need it

    # Cells that are halved in space, and larger ones than by default, are faster to search.
    return cKDTree(places, leafsize=_LEAF_PLACES, balanced_tree=False, compact_nodes=False)


def _neighbors(places: np.ndarray, count: int, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest places of each place, itself first: their distances and rows, both `(U, count)`."""
    return search_tree(places).query(places, k=count, workers=num_threads)


def _covariance(places: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """The covariance of each neighborhood, scaled to a trace of 1: xx, yy, zz, xy, xz, yz, `(6, rows)`."""
    x, y, z = (axis[neighbors.T] for axis in np.ascontiguousarray(places.T))  # (K, rows) each
    for axis in (x, y, z):
        axis -= axis.mean(axis=0)
    products = np.stack([(a * b).sum(axis=0) for a, b in ((x, x), (y, y), (z, z), (x, y), (x, z), (y, z))])
    return products / np.maximum(products[:3].sum(axis=0), np.finfo(np.float64).tiny)


def smallest_eigenvectors(covariance: np.ndarray) -> np.ndarray:
    """The eigenvectors of the smallest eigenvalue for covariances `(6, rows)` of trace 1 or 0: `(rows, 3)`, length 1.

    The smallest root of the characteristic polynomial in closed form (Smith, 1961), and the null vector of the matrix
    minus this root: ten times as fast as an eigensolver, which handles only the rows whose two smaller roots are too
    close together.
    """
    xx, yy, zz, xy, xz, yz = covariance
    third = 1 / 3  # of the trace
    a, b, c = xx - third, yy - third, zz - third
    radius = np.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    determinant = a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)
    cosine = np.clip(determinant / np.maximum(2 * radius**3, np.finfo(np.float64).tiny), -1, 1)
    lowest = 2 * radius * np.cos((np.arccos(cosine) + 2 * np.pi) / 3)
    a, b, c = a - lowest, b - lowest, c - lowest
    # The adjugate: each of its rows is a null vector; the one with the largest diagonal is the most accurate.
    adj_xx, adj_yy, adj_zz = b * c - yz * yz, a * c - xz * xz, a * b - xy * xy
    adj_xy, adj_xz, adj_yz = xz * yz - xy * c, xy * yz - xz * b, xy * xz - a * yz
    rows = np.stack([[adj_xx, adj_xy, adj_xz], [adj_xy, adj_yy, adj_yz], [adj_xz, adj_yz, adj_zz]])
    largest = np.stack([adj_xx, adj_yy, adj_zz]).argmax(axis=0)
    normals = rows[largest, :, np.arange(len(largest))]
    apart = adj_xx + adj_yy + adj_zz  # the product of the gaps between the smallest root and the two others
    near = apart < _MIN_GAP
    normals[near] = _smallest_eigenvectors_by_solver(covariance[:, near])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _smallest_eigenvectors_by_solver(covariance: np.ndarray) -> np.ndarray:
    """The same with an eigensolver, for any covariances, including lines."""
    xx, yy, zz, xy, xz, yz = covariance
    matrix = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(matrix)  # in ascending order; the vectors are columns
    normals = vectors[:, :, 0]
    thin = values[:, 1] <= _FLAT
    normals[thin] = _most_upright_perpendicular(vectors[thin, :, 2])
    return normals


def _most_upright_perpendicular(lines: np.ndarray) -> np.ndarray:
    """The most upright direction perpendicular to each line `(rows, 3)`; x if the line itself is vertical."""
    across = np.array([0.0, 0.0, 1.0]) - lines[:, 2:] * lines
    length = np.linalg.norm(across, axis=1, keepdims=True)
    return np.where(length > _FLAT, across / np.maximum(length, _FLAT), [1.0, 0.0, 0.0])


def _orient(normals: np.ndarray, places: np.ndarray, distance: np.ndarray, neighbors: np.ndarray) -> None:
    """Flip the normals `(U, 3)` in place so that neighbors agree.

    Args:
        normals: of each place, `(U, 3)`.
        places: `(U, 3)`.
        distance: to each neighbor, ascending, `(U, K)`.
        neighbors: their rows in `places`, `(U, K)`.
    """
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    count = len(places)
    cost, target, degree = [], [], []
    for start in range(0, count, _CHUNK):
        rows = slice(start, start + _CHUNK)
        near = neighbors[rows]
        # One edge is enough for two places that are neighbors of each other: sorting the edges is the slow part.
        duplicate = (near < np.arange(start, start + len(near))[:, None]) & (distance[rows] < distance[near, -1])
        cosine = np.einsum("uc,ukc->uk", normals[rows], normals[near])
        cost.append(1 + 1e-6 - np.abs(cosine[~duplicate]))  # never 0, which would mean no edge
        target.append(near[~duplicate])
        degree.append((~duplicate).sum(axis=1))
    ends = np.concatenate([[0], np.cumsum(np.concatenate(degree))])
    graph = csr_array((np.concatenate(cost), np.concatenate(target), ends), shape=(count, count))
    spanning = minimum_spanning_tree(graph).tocoo()

    # An extra node before the first place of each component joins them all into one tree.
    component = connected_components(spanning, directed=False)[1]
    firsts = np.unique(component, return_index=True)[1]
    tails = np.concatenate([spanning.row, np.full(len(firsts), count)])
    heads = np.concatenate([spanning.col, firsts])
    joined = coo_array((np.ones(len(tails)), (tails, heads)), shape=(count + 1, count + 1)).tocsr()
    before = breadth_first_order(joined, count, directed=False)[1]
    before[count] = count

    # Whether a normal must flip relative to the one before it; then to the one two, four, eight, ... before it.
    flip = np.zeros(count + 1, dtype=bool)
    flip[:count] = np.einsum("uc,uc->u", normals, normals[np.minimum(before[:count], count - 1)]) < 0
    flip[firsts] = False
    while (before != count).any():
        flip ^= flip[before]
        before = before[before]
    normals[flip[:count]] *= -1
    normals[_vote(normals, places, component)[component] < 0] *= -1


def _vote(normals: np.ndarray, places: np.ndarray, component: np.ndarray) -> np.ndarray:
    """How much the normals `(U, 3)` of each component `(U,)` point up and outward, summed: `(components,)`."""
    size = np.bincount(component)
    outward = places - np.stack([np.bincount(component, axis) / size for axis in places.T], axis=1)[component]
    radius = np.sqrt(np.bincount(component, (outward**2).sum(axis=1)) / size)
    outward /= np.maximum(radius, np.finfo(np.float64).tiny)[component, None]
    return np.bincount(component, (normals * (_UP + outward + _AWAY * places)).sum(axis=1))
