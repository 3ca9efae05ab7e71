"""Random trees learn what a point's features say, the same way every time."""

from __future__ import annotations

import pytest
import torch

from dbbd_cli.model.forest import Forest


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes in stripes and a corner of two of four features."""
    features = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    classes = ((features[:, 0] * 4).long() % 2) + ((features[:, 0] > 0.5) & (features[:, 2] > 0.5)).long()
    return features, classes


def fitted(seed: int = 0, num_trees: int = 16) -> Forest:
    forest = Forest(num_trees, 4)
    forest.fit(*points(3000, 1), seed)
    return forest


def test_new_points_get_their_classes_and_shares_that_sum_to_1() -> None:
    features, classes = points(2000, 2)
    shares = fitted()(features)
    assert shares.shape == (2000, 4)
    assert torch.allclose(shares.sum(1), torch.ones(2000), atol=2e-3)
    assert (shares.argmax(1) == classes).float().mean() > 0.93
    assert not shares[:, 3].any()  # a class without points


def test_a_point_walks_down_each_tree_to_a_leaf() -> None:
    forest, features = fitted(num_trees=3), points(50, 6)[0]
    for point, shares in zip(features, forest(features), strict=True):
        total = torch.zeros(4)
        for tree in range(3):
            node = 0
            while forest.child[tree, node] > 0:
                goes_right = point[int(forest.feature[tree, node])] > forest.threshold[tree, node]
                node = int(forest.child[tree, node]) + int(goes_right)
            total += forest.shares[tree, node]
        assert torch.allclose(shares, total / 3)


def test_the_same_seed_gives_the_same_trees() -> None:
    features, _ = points(200, 3)
    assert torch.equal(fitted(seed=5)(features), fitted(seed=5)(features))
    assert not torch.equal(fitted(seed=5)(features), fitted(seed=6)(features))


def test_the_trees_are_saved_with_the_module() -> None:
    features, _ = points(200, 3)
    restored = Forest(16, 4)
    restored.load_state_dict(fitted().state_dict())
    assert torch.equal(restored(features), fitted()(features))


def test_more_points_than_a_chunk_give_the_same_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    forest, features = fitted(), points(500, 4)[0]
    whole = forest(features)
    monkeypatch.setattr("dbbd_cli.model.forest._CHUNK", 64)
    assert torch.equal(forest(features), whole)


def test_points_that_cannot_be_told_apart_share_a_leaf() -> None:
    forest = Forest(2, 2)
    forest.fit(torch.ones(8, 3), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]), 0)
    assert forest(torch.zeros(1, 3)).tolist() == [[0.75, 0.25]]


def test_a_tree_that_is_full_stops_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.model.forest._MAX_NODES", 16)
    forest = fitted(num_trees=2)
    assert forest.child.max() <= 14
    assert torch.allclose(forest(points(50, 1)[0]).sum(1), torch.ones(50), atol=2e-3)
