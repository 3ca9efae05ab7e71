"""Extremely randomized trees, as buffers of a module.

After Geurts, Ernst and Wehenkel, "Extremely randomized trees" (2006): every split is the best of a few random ones, so
that a tree grows without sorting, and the trees differ without resampling.

M = training points, N = points, F = features, K = classes, T = trees, Q = nodes of a tree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

_MAX_NODES = 8192
_MAX_DEPTH = 24
_MIN_LEAF = 2
_CHUNK = 1 << 11
"""Points that pass through the trees at once, few enough that what is computed stays in the cache of the CPU."""
_CHUNK_GPU = 1 << 16


class _Nodes(NamedTuple):
    """The nodes of all trees, `(T * Q,)` each.

    Attributes:
        feature: the feature that is compared with the threshold.
        threshold: where a point above it goes to the right.
        left: the left child; the right one is next to it.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    left: torch.Tensor


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
        num_trees, num_nodes = self.child.shape
        first = torch.arange(num_trees, dtype=torch.int32, device=features.device)[:, None] * num_nodes
        is_leaf = self.child <= 0
        # The nodes of all trees in one row; nothing is above the threshold of a leaf, which follows itself.
        itself = first + torch.arange(num_nodes, dtype=torch.int32, device=features.device)
        nodes = _Nodes(
            self.feature.flatten().int(),
            self.threshold.masked_fill(is_leaf, torch.inf).flatten(),
            torch.where(is_leaf, itself, first + self.child).flatten(),
        )
        shares = self.shares.float().flatten(0, 1)
        roots = first[:, 0]
        chunks = features.float().split(_CHUNK_GPU if features.is_cuda else _CHUNK)
        return torch.cat([_mean_shares(chunk, roots, nodes, shares) for chunk in chunks])

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


def _mean_shares(features: torch.Tensor, roots: torch.Tensor, nodes: _Nodes, shares: torch.Tensor) -> torch.Tensor:
    """The mean over the trees of the shares `(T * Q, K)` in the leaves that points with `features` `(N, F)` reach."""
    count, num_features = features.shape
    values = features.flatten()
    start = torch.arange(count, dtype=torch.int32, device=features.device).mul(num_features).repeat(len(roots))
    node = roots.repeat_interleave(count)  # tree by tree
    # index_select with 32-bit numbers: three times as fast on a CPU as indexing.
    for _ in range(_MAX_DEPTH):
        value = values.index_select(0, start + nodes.feature.index_select(0, node))
        is_above = value > nodes.threshold.index_select(0, node)
        node = nodes.left.index_select(0, node) + is_above.int()
    reached = shares.index_select(0, node).view(len(roots), count, shares.shape[1])
    total = torch.zeros_like(reached[0])
    for of_tree in reached:
        total += of_tree
    return total / len(roots)


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
