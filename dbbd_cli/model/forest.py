"""Extremely randomized trees, as buffers of a module.

After Geurts, Ernst and Wehenkel, "Extremely randomized trees" (2006): every split is the best of a few random ones, so
that a tree grows without sorting, and the trees differ without resampling.

M = training points, N = points, F = features, K = classes, T = trees, Q = nodes of a tree.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_MAX_NODES = 8192
_MAX_DEPTH = 24
_MIN_LEAF = 2
_CHUNK = 1 << 14
"""Points that pass through the trees at once."""


class Forest(nn.Module):
    """Classifies points by the mean of the class shares in the leaves that they reach.

    Args:
        num_trees: T.
        num_classes: K.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    child: torch.Tensor
    shares: torch.Tensor

    def __init__(self, num_trees: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros(num_trees, _MAX_NODES, dtype=torch.int16))
        self.register_buffer("threshold", torch.zeros(num_trees, _MAX_NODES))
        # The left one of two adjacent children; 0 for leaves.
        self.register_buffer("child", torch.zeros(num_trees, _MAX_NODES, dtype=torch.int16))
        self.register_buffer("shares", torch.zeros(num_trees, _MAX_NODES, num_classes, dtype=torch.float16))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the shares of the classes, `(N, K)` float32, from features `(N, F)`."""
        return torch.cat([self._of_chunk(chunk) for chunk in features.float().split(_CHUNK)])

    def _of_chunk(self, features: torch.Tensor) -> torch.Tensor:
        num_trees, num_nodes = self.child.shape
        feature, child = self.feature.flatten().long(), self.child.flatten().long()
        threshold = self.threshold.flatten()
        first = torch.arange(num_trees, device=features.device) * num_nodes
        node = first.repeat(len(features), 1)
        for _ in range(_MAX_DEPTH):
            below = child[node]
            goes_right = features.gather(1, feature[node]) > threshold[node]
            node = torch.where(below > 0, first + below + goes_right, node)
        shares = self.shares.flatten(0, 1)
        total = torch.zeros(len(features), shares.shape[1], device=features.device)
        for tree in range(num_trees):
            total += shares[node[:, tree]]
        return total / num_trees

    def fit(self, features: torch.Tensor, classes: torch.Tensor, seed: int) -> None:
        """Grow the trees.

        Args:
            features: `(M, F)`.
            classes: `(M,)`.
            seed: seed of the candidates for splits.
        """
        num_classes = self.shares.shape[2]
        for tree in range(len(self.child)):
            random = np.random.default_rng([seed, tree])
            parts = _grow(features.numpy(), classes.numpy(), num_classes, random)
            for buffer, values in zip((self.feature, self.threshold, self.child, self.shares), parts, strict=True):
                buffer[tree] = torch.from_numpy(values).to(buffer.dtype)


def _grow(
    features: np.ndarray, classes: np.ndarray, num_classes: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The feature, the threshold and the left child `(Q,)` and the class shares `(Q, K)` of each node of a tree."""
    num_features = features.shape[1]
    num_candidates = max(1, round(num_features**0.5))
    feature, child = np.zeros(_MAX_NODES, np.int64), np.zeros(_MAX_NODES, np.int64)
    threshold, shares = np.zeros(_MAX_NODES, np.float32), np.zeros((_MAX_NODES, num_classes))
    shares[0] = np.bincount(classes, minlength=num_classes) / len(classes)
    # The points of open nodes, grouped by node; `group` is the rank of a point's node among the open ones.
    rows, group, nodes, used = np.arange(len(classes)), np.zeros(len(classes), np.int64), np.zeros(1, np.int64), 1
    for _ in range(_MAX_DEPTH):
        start = np.flatnonzero(np.diff(group, prepend=-1))
        best = np.full(len(nodes), -np.inf)
        best_feature, best_threshold = np.zeros(len(nodes), np.int64), np.zeros(len(nodes), np.float32)
        best_counts = np.zeros((len(nodes), 2, num_classes))
        candidates = random.random((len(nodes), num_features)).argsort(axis=1)[:, :num_candidates]
        for column in candidates.T:
            values = features[rows, column[group]]
            low, high = np.minimum.reduceat(values, start), np.maximum.reduceat(values, start)
            cut = (low + random.random(len(nodes)) * (high - low)).astype(np.float32)
            side = values > cut[group]
            places = (group * 2 + side) * num_classes + classes[rows]
            counts = np.bincount(places, minlength=len(nodes) * 2 * num_classes).reshape(-1, 2, num_classes)
            sizes = counts.sum(axis=2)
            # The larger, the purer the two sides by Gini's index.
            score = ((counts.astype(np.float64) ** 2).sum(axis=2) / np.maximum(sizes, 1)).sum(axis=1)
            score[(sizes < _MIN_LEAF).any(axis=1)] = -np.inf
            better = score > best
            best[better], best_feature[better], best_threshold[better] = score[better], column[better], cut[better]
            best_counts[better] = counts[better]
        splits = np.flatnonzero(np.isfinite(best))[: (_MAX_NODES - used) // 2]
        if not len(splits):
            break
        parents = nodes[splits]
        feature[parents], threshold[parents] = best_feature[splits], best_threshold[splits]
        child[parents] = used + 2 * np.arange(len(splits))
        found = best_counts[splits].reshape(-1, num_classes)
        shares[used : used + len(found)] = found / found.sum(axis=1, keepdims=True)
        is_open = ((found > 0).sum(axis=1) > 1) & (found.sum(axis=1) >= 2 * _MIN_LEAF)
        # Follow the points into the new nodes that can be split again.
        rank = np.full(len(nodes), -1)
        rank[splits] = np.arange(len(splits))
        side = features[rows, best_feature[group]] > best_threshold[group]
        new = np.where(rank[group] >= 0, 2 * rank[group] + side, -1)
        kept = (new >= 0) & is_open[new]
        rows, new = rows[kept], new[kept]
        if not len(rows):
            break
        order = np.argsort(new, kind="stable")
        rows = rows[order]
        numbers, group = np.unique(new[order], return_inverse=True)
        nodes, used = used + numbers, used + len(found)
    return feature, threshold, child, shares
