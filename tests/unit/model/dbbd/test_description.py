"""The description loss has the targets of plain loops over regions and points, and features learn to describe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.model.dbbd.description import Described, DescriptionLoss, region_means
from dbbd_cli.model.dbbd.encoder import BranchFeatures
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch, build_partial_views, build_regions, build_whole_regions
from dbbd_cli.model.numeric_pieces import encode_pieces
from unit.model.dbbd.dbbd_reference import Node, Tree, nodes_of, pruned, random_tree
from unit.model.dbbd.networks import make_dbbd

SIZES = [40, 30]
GROUPS = (3, 1)
PICKED = np.arange(0, 70, 5)


def tiny(**changes: Any) -> DbbdPretraining:
    sizes: dict[str, Any] = {
        "feature_dim": 4, "hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [6, 8], "propagator_hidden_dim": 8,
        "projection_dim": 4, "num_levels": 3, "description_groups": GROUPS,
    }  # fmt: skip
    torch.manual_seed(0)
    return make_dbbd(**{**sizes, **changes})


def two_trees() -> list[Tree]:
    rng = np.random.default_rng(0)
    return [random_tree(rng, size, 2) for size in SIZES]


def described_features() -> torch.Tensor:
    return torch.randn(70, 4, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 2.0, 0.1, 30.0])


def views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(70, width, generator=generator) for width in (3, 4, 3, 4)]


def nodes_by_level(trees: list[Tree]) -> dict[int, list[tuple[int, Node]]]:
    """Scene and node of each row of each level."""
    found: dict[int, list[tuple[int, Node]]] = {}
    for scene, tree in enumerate(trees):
        for node in nodes_of(tree):
            found.setdefault(node.level, []).append((scene, node))
    return found


def points_of(scene: int, node: Node) -> list[int]:
    return [point + 40 * scene for point in node.points]


def test_regions_have_the_mean_code_of_all_their_points() -> None:
    trees, features = two_trees(), described_features().double()
    found = region_means(features, build_regions(trees, SIZES), lambda rows: torch.cat([rows, rows.square()], dim=1))
    for level, nodes in nodes_by_level(trees).items():
        assert len(found[level]) == len(nodes)
        for row, (scene, node) in zip(found[level], nodes, strict=True):
            own = features[points_of(scene, node)]
            torch.testing.assert_close(row, torch.cat([own, own.square()], dim=1).mean(0))


def naive_loss(
    loss: DescriptionLoss, branches: list[BranchFeatures], masks: list[np.ndarray], picked: list[np.ndarray]
) -> torch.Tensor:
    """The loss in loops, for views that have the points of `masks` and whose points `picked` are described."""
    features = described_features().double()

    def target(points: list[int]) -> torch.Tensor:
        codes = encode_pieces(features[points], loss.codes.lower, loss.codes.width).flatten(1)
        return (codes.mean(0) - loss.codes.mean) / loss.codes.deviation

    def error(predicted: torch.Tensor, points: list[int]) -> torch.Tensor:
        squares = (predicted - target(points)).square()
        parts, first = [], 0
        for size in GROUPS:
            parts.append(squares[first : first + 8 * size].mean())
            first += 8 * size
        return torch.stack(parts).mean()

    trees = two_trees()
    errors, weights = [], []
    for branch, (found, mask) in enumerate(zip(branches, masks, strict=True)):
        rows: dict[int, list[list[int]]] = {}
        for scene, tree in enumerate(trees):
            whole = nodes_of(tree)
            for number in pruned(tree, mask[40 * scene : 40 * scene + SIZES[scene]])[1]:
                rows.setdefault(whole[number].level, []).append(points_of(scene, whole[number]))
        for level, points in rows.items():
            predicted = loss.region_heads[3 * branch + level](F.layer_norm(found.regions[level], (8,)))
            errors.append(torch.stack([error(*pair) for pair in zip(predicted, points, strict=True)]).mean())
            weights.append(1.0)
        predicted = loss.point_heads[branch](F.layer_norm(found.points, (8,)))
        own = [[point] for point in picked[branch].tolist()]
        errors.append(torch.stack([error(*pair) for pair in zip(predicted, own, strict=True)]).mean())
        weights.append(2.0)
    predicted = loss.surroundings_head(F.layer_norm(branches[0].points, (8,))).view(-1, 2, 32)
    around = [
        error(predicted[row, node.level - 1], points_of(scene, node))
        for row, point in enumerate(picked[0].tolist())
        for scene, tree in enumerate(trees)
        for node in nodes_of(tree)
        if node.level > 0 and point in points_of(scene, node)
    ]
    errors.append(torch.stack(around).mean())
    weights.append(1.0)
    return sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)


def branches_of(
    module: DbbdPretraining, first: RegionBatch, second: RegionBatch, parts: list[torch.Tensor]
) -> list[BranchFeatures]:
    return [
        module.encoder.global_to_local(parts[0], parts[1], first),
        module.encoder.local_to_global(parts[2], parts[3], second),
    ]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.5}, {"momentum": 0.5, "symmetric": True}])
def test_the_loss_is_that_of_plain_loops(cut: bool, changes: dict[str, Any]) -> None:
    module = tiny(description_weight=0.7, **changes).double()
    assert module.description is not None
    module.description.codes.fit(described_features())
    module.description.double()
    parts = [part.double() for part in views()]
    trees, features = two_trees(), described_features().double()
    if cut:
        rng = np.random.default_rng(1)
        keep = [rng.random(70) < share for share in (0.6, 0.3)]
        first_node = trees[0]
        for node, mask in zip((2, 3), keep, strict=True):  # a region that is gone
            mask[first_node.indices[first_node.indices_ptr[node] : first_node.indices_ptr[node + 1]]] = False
        common = np.flatnonzero(keep[0] & keep[1])
        first, (second,) = build_partial_views(trees, SIZES, keep, [common])
        whole = build_whole_regions(trees, SIZES, keep)
        total, expected = (
            module.compare(*parts, first, second, (), Described(features, whole))[2],
            naive_loss(module.description, branches_of(module, first, second.regions, parts), keep, [common, common]),
        )
    else:
        regions = build_regions(trees, SIZES, point_index=PICKED)
        every = [np.ones(70, dtype=bool)] * 2
        total, expected = (
            module.compare(*parts, regions, None, (), Described(features))[2],
            naive_loss(module.description, branches_of(module, regions, regions, parts), every, [PICKED, PICKED]),
        )
    assert total.description is not None
    torch.testing.assert_close(total.description, expected)
    without = tiny(**changes).double()
    others = without.compare(*parts, first, second)[2] if cut else without.compare(*parts, regions)[2]
    torch.testing.assert_close(total.total, others.total + 0.7 * expected)


def test_groups_count_equally_however_many_features_they_have() -> None:
    loss = DescriptionLoss(input_dim=8, groups=[24, 5, 1], num_levels=3)
    target = torch.zeros(3, 30 * 8)
    predicted = torch.zeros(3, 30 * 8)
    for row, columns in enumerate((slice(0, 192), slice(192, 232), slice(232, 240))):
        predicted[row, columns] = 3.0
    torch.testing.assert_close(loss._errors(predicted, target), torch.full((3,), 3.0))


def test_without_it_nothing_changes() -> None:
    plain, off, on = tiny(), tiny(description_weight=0.0), tiny(description_weight=1.0)
    assert off.description is None
    assert plain.state_dict().keys() == off.state_dict().keys()
    state = on.state_dict()
    assert {name for name in state if not name.startswith("description.")} == set(plain.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    regions = build_regions(two_trees(), SIZES, point_index=PICKED)
    found = [module(*views(), regions, None, (), Described(described_features())) for module in (off, on)]
    assert "description_loss" not in found[0].metrics
    assert found[0].metrics.keys() | {"description_loss"} == found[1].metrics.keys()
    for name in ("region_loss", "point_loss"):
        assert torch.equal(found[0].metrics[name], found[1].metrics[name])
    with pytest.raises(ValueError, match="needs the features"):
        on(*views(), regions)


@pytest.mark.parametrize("weights", [{}, {"region_weight": 0.0, "point_weight": 0.0}])
def test_training_reduces_the_loss(weights: dict[str, float]) -> None:
    module = tiny(description_weight=1.0, **weights)
    assert module.description is not None
    coord, features = views()[0], described_features()
    module.description.codes.fit(features)
    regions = build_regions(two_trees(), SIZES, point_index=PICKED)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        output = module(coord, features, coord, features, regions, None, (), Described(features))
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.metrics["description_loss"]) / 2)
    assert losses[-1] < 0.6 * losses[0]


def test_it_is_computed_in_half_precision_too() -> None:
    module = tiny(description_weight=1.0)
    assert module.description is not None
    module.description.codes.fit(described_features())
    regions = build_regions(two_trees(), SIZES, point_index=PICKED)
    described = Described(described_features())
    full = module.compare(*views(), regions, None, (), described)[2].description
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module.compare(*views(), regions, None, (), described)[2].description
    assert full is not None
    assert half is not None
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)


def test_trees_of_a_root_alone_have_no_surroundings() -> None:
    total = 20
    tree = Tree(np.array([-1]), np.array([0]), np.array([0]), np.arange(total), np.array([0, total]))
    module = tiny(description_weight=1.0)
    parts = [part[:total] for part in views()]
    output = module(*parts, build_regions([tree], [total]), None, (), Described(described_features()[:total]))
    assert output.loss.isfinite()
    output.loss.backward()
