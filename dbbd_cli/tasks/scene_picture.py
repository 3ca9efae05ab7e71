"""Select the data to draw a scene: coordinates, features as colors, labels and regions of some of its points.

Legend: N points of the scene, M selected points, D channels of point features, L levels of the region tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dbbd_cli.data.scenes.trees.region_tree import RegionTree
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_features import principal_colors

MAX_POINTS = 20_000


def scene_picture(
    scene: PointBatch,
    tree: RegionTree,
    features: np.ndarray,
    labels: Sequence[int],
    prediction: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Select random points, the same ones every time, and describe them.

    Args:
        scene: a batch of one scene, with its labels.
        tree: its regions.
        features: `(N, D)`.
        labels: the labels of the classes, ascending.
        prediction: `(N,)`, the index of the predicted label in `labels`.

    Returns:
        Arrays by name:
        coord: `(M, 3)` float32.
        color: `(M, 3)` uint8, the first three principal components of the features.
        region: `(L, M)` int32, the region of each level; below a leaf, the leaf.
        segment: `(M,)` int32, the index of the label in `labels`, or -1; missing if no point has a label.
        prediction: `(M,)` int32, if it was given.
    """
    coord = scene.coord.numpy()
    chosen = np.sort(np.random.default_rng(0).permutation(len(coord))[:MAX_POINTS])
    picture = {
        "coord": coord[chosen],
        "color": principal_colors(features[chosen]),
        "region": _regions(tree)[:, chosen],
    }
    if prediction is not None:
        picture["prediction"] = prediction[chosen].astype(np.int32)
    assert scene.segment is not None
    segment = scene.segment.numpy()[chosen]
    known = np.isin(segment, labels)
    if known.any():
        picture["segment"] = np.where(known, np.searchsorted(labels, segment), -1).astype(np.int32)
    return picture


def _regions(tree: RegionTree) -> np.ndarray:
    """The region of each point on each level, numbered from 0, `(L, N)` int32."""
    owner = np.zeros(int(tree.num_points[0]), dtype=np.int64)
    levels = []
    for level in range(tree.num_levels):
        for row in np.flatnonzero(tree.level == level).tolist():
            owner[tree.region(row)] = row
        levels.append(np.unique(owner, return_inverse=True)[1].reshape(-1))
    return np.stack(levels).astype(np.int32)
