"""The teacher is the moving average of the network, gives the keys, and has no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dbbd_cli.model.dbbd.encoder import BranchFeatures
from dbbd_cli.model.dbbd.loss import DbbdLoss, Projected
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch, build_partial_views, build_regions
from unit.model.dbbd.dbbd_reference import Tree, random_tree
from unit.model.dbbd.networks import make_dbbd

SIZES = [40, 30]


def tiny(**changes: Any) -> DbbdPretraining:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [6, 8], "propagator_hidden_dim": 8, "projection_dim": 4
    }  # fmt: skip
    return make_dbbd(**{**sizes, "momentum": 0.9, **changes})


def trees() -> list[Tree]:
    rng = np.random.default_rng(0)
    return [random_tree(rng, size, 2) for size in SIZES]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
    torch.manual_seed(0)
    coord1, feat1, coord2, feat2 = (torch.randn(70, 3) for _ in range(4))
    return coord1, feat1, coord2, feat2, build_regions(trees(), SIZES)


def moved_apart(module: DbbdPretraining) -> DbbdPretraining:
    """With a teacher that differs from the network, as after some steps."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def taught(module: DbbdPretraining) -> nn.Module:
    assert module.teacher is not None
    return module.teacher


def projected(loss: DbbdLoss, features: BranchFeatures) -> Projected:
    return loss.project(features)[0]


def test_the_teacher_begins_as_the_network_and_follows_it_step_by_step() -> None:
    module = tiny()
    weights = dict(taught(module).named_buffers())
    expected = {name: value.clone() for name, value in weights.items()}
    assert expected.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(expected[name], parameter) for name, parameter in module.named_parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(3):
        before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        optimizer.zero_grad()
        module(*batch()).loss.backward()
        optimizer.step()
        for name, value in before.items():
            expected[name] = 0.9 * expected[name] + 0.1 * value
            torch.testing.assert_close(weights[name], expected[name])
    learned = {name: parameter for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert len(learned) > 20
    assert not any(torch.equal(weights[name], parameter) for name, parameter in learned.items())


def test_the_teacher_stays_the_same_in_evaluation_and_is_no_parameter() -> None:
    module = moved_apart(tiny()).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert any(name.startswith("teacher.encoder.") for name in before)
    assert any(name.startswith("teacher.loss.") for name in before)
    with torch.inference_mode():
        module(*batch())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(name.startswith("teacher.") for name, _ in module.named_parameters())
    assert taught(tiny(aggregation="attention")) is not None
    assert tiny(momentum=0.0).teacher is None


@pytest.mark.parametrize("symmetric", [False, True])
def test_keys_come_from_the_teacher_and_only_queries_learn(symmetric: bool) -> None:
    module = moved_apart(tiny(symmetric=symmetric)).eval()
    coord1, feat1, coord2, feat2, regions = batch()
    top_down, bottom_up, losses = module.compare(coord1, feat1, coord2, feat2, regions)
    losses.total.backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters()}

    teacher: Any = taught(module)
    down, up = (
        module.encoder.global_to_local(coord1, feat1, regions),
        module.encoder.local_to_global(coord2, feat2, regions),
    )
    with torch.no_grad():
        keys = projected(teacher.loss, teacher.encoder.local_to_global(coord2, feat2, regions))
        others = projected(teacher.loss, teacher.encoder.global_to_local(coord1, feat1, regions))
    pairs = [(projected(module.loss, down), keys), (projected(module.loss, up), others)]
    expected = module.loss(pairs if symmetric else pairs[:1])
    torch.testing.assert_close(losses.total, expected.total)
    torch.testing.assert_close(losses.key, keys.points.vectors)
    assert torch.equal(top_down.points, down.points)
    assert torch.allclose(bottom_up.points, up.points) == symmetric  # otherwise the teacher's
    module.zero_grad()
    expected.total.backward()
    for name, parameter in module.named_parameters():
        one, two = found[name], parameter.grad
        assert (one is None) == (two is None), name
        assert (one is not None) == (symmetric or "aggregator" not in name), name
        if one is not None and two is not None:
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_local_view_is_a_query_for_the_keys_of_the_whole_view(symmetric: bool) -> None:
    module = moved_apart(tiny(symmetric=symmetric)).eval()
    coord1, feat1, coord2, feat2, _ = batch()
    keep = [np.arange(70) % 7 != part for part in (1, 2, 3)]
    common = [np.flatnonzero(keep[0] & mask) for mask in keep[1:]]
    first, (second, piece) = build_partial_views(trees(), SIZES, keep, common)
    *_, losses = module.compare(coord1, feat1, coord2, feat2, first, second, [(coord2, feat1, piece)])
    teacher: Any = taught(module)
    with torch.no_grad():
        keys = teacher.encoder.global_to_local(coord1, feat1, first)
        query = module.encoder.local_to_global(coord2, feat1, piece.regions)
        of_query = [query.regions[number][level.second] for number, level in enumerate(piece.shared)]
        of_keys = [keys.regions[number][level.first] for number, level in enumerate(piece.shared)]
        one = projected(module.loss, BranchFeatures(of_query, query.points))
        two = projected(teacher.loss, BranchFeatures(of_keys, keys.points[len(common[0]) :]))
        expected = module.loss([(one, two)])
    assert losses.local is not None
    torch.testing.assert_close(losses.local, expected.total)


def test_regions_of_a_batch_are_clustered_without_collapsing() -> None:
    with pytest.raises(ValueError, match="momentum"):
        tiny(kind="prototypes", momentum=0.0)
    module = tiny(kind="prototypes", num_prototypes=6, symmetric=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    coord, feat, _, _, regions = batch()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = module(coord, feat, coord, feat, regions).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    module.eval()
    rows = module.compare(coord, feat, coord, feat, regions)[2].query
    assert module.loss.point_prototypes is not None
    used = (rows @ torch.nn.functional.normalize(module.loss.point_prototypes, dim=1).T).argmax(1).unique()
    assert len(used) >= 4
