"""The encoder computes the same features and gradients as plain loops over regions, without a kernel per region."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dbbd_cli.model.dbbd import encoder as dbbd_encoder
from dbbd_cli.model.dbbd import segment_ops
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch, build_regions
from unit.model.dbbd.dbbd_reference import Tree, random_tree, reference_loss
from unit.model.dbbd.networks import make_dbbd


def tiny(**changes: Any) -> DbbdPretraining:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "feature_dim": 4,
        "hidden_dim": 10,
        "output_dim": 8,
        "encoder_hidden_dims": [6, 12],
        "propagator_hidden_dim": 14,
        "projection_dim": 5,
    }
    module = make_dbbd(**{**sizes, **changes})
    for parameter in module.parameters():  # so that biases and norms matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def scenes(sizes: list[int], *, dtype: torch.dtype = torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(2)
    total = sum(sizes)
    return [(torch.randn(total, 3, dtype=dtype), torch.randn(total, 4, dtype=dtype)) for _ in range(2)]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def run(module: DbbdPretraining, views: list[tuple[torch.Tensor, torch.Tensor]], regions: RegionBatch) -> torch.Tensor:
    module.zero_grad()
    loss = module(*views[0], *views[1], regions).loss
    loss.backward()
    return loss.detach()


def assert_as_the_reference(
    module: DbbdPretraining, trees: list[Tree], sizes: list[int], chosen: np.ndarray | None = None, **views_made: Any
) -> None:
    module.double()
    views = views_made.get("views") or scenes(sizes)
    regions = build_regions(trees, sizes, point_index=chosen)
    module.zero_grad()
    top_down, bottom_up, losses = module.compare(*views[0], *views[1], regions)
    losses.total.backward()
    own = gradients(module)
    module.zero_grad()
    everything = np.arange(sum(sizes)) if chosen is None else chosen
    total, by_level, features, points = reference_loss(module, views, trees, sizes, everything)
    total.backward()
    expected = gradients(module)

    def same(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    same(losses.total, total)
    assert list(losses.levels) == list(by_level)
    for level, loss in by_level.items():
        same(losses.levels[level].loss, loss)
    for branch, branch_features, branch_points in zip((top_down, bottom_up), features, points, strict=True):
        assert len(branch.regions) == len(branch_features)
        for a, b in zip(branch.regions, branch_features, strict=True):
            same(a, b)
        same(branch.points, branch_points)
    assert own.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("aggregation", ["max", "mean", "attention"])
def test_features_losses_and_gradients_equal_those_of_plain_loops(aggregation: str, pooling: str) -> None:
    rng = np.random.default_rng(0)
    sizes = [23, 17]
    trees = [random_tree(rng, size, 3) for size in sizes]
    chosen = rng.permutation(40)[:15]
    assert_as_the_reference(tiny(aggregation=aggregation, pooling=pooling), trees, sizes, chosen)


@pytest.mark.parametrize("aggregation", ["max", "mean", "attention"])
def test_scenes_of_different_depth_in_one_batch(aggregation: str) -> None:
    rng = np.random.default_rng(3)
    sizes = [12, 20, 1, 6]
    trees = [random_tree(rng, size, depth) for size, depth in zip(sizes, [1, 4, 2, 0], strict=True)]
    assert_as_the_reference(tiny(aggregation=aggregation), trees, sizes)


@pytest.mark.parametrize("sizes", [[9], [9, 5]])
def test_a_single_level_of_regions(sizes: list[int]) -> None:
    rng = np.random.default_rng(4)
    assert_as_the_reference(tiny(), [random_tree(rng, size, 0) for size in sizes], sizes)


def test_duplicate_points() -> None:
    sizes = [16, 10]
    rng = np.random.default_rng(5)
    views = [(coord[:1].repeat(26, 1), feat[:1].repeat(26, 1)) for coord, feat in scenes(sizes)]
    for view in views:
        view[0][13:] += 1
    assert_as_the_reference(tiny(), [random_tree(rng, size, 2) for size in sizes], sizes, views=views)


def test_chunks_of_the_pass_without_gradient_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbbd_encoder, "_CHUNK_ROWS", 3)
    rng = np.random.default_rng(6)
    assert_as_the_reference(tiny(), [random_tree(rng, 20, 2)], [20])


@pytest.mark.parametrize("aggregation", ["max", "mean", "attention"])
def test_devices_that_synchronize_give_the_same_in_one_pass(aggregation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_ops, "SYNC_FREE_DEVICES", ())
    rng = np.random.default_rng(11)
    sizes = [40, 25]
    assert_as_the_reference(tiny(aggregation=aggregation), [random_tree(rng, size, 3) for size in sizes], sizes)


@pytest.mark.parametrize("hidden", [[7], [5, 6, 7]])
def test_any_number_of_hidden_layers(hidden: list[int]) -> None:
    rng = np.random.default_rng(7)
    assert_as_the_reference(tiny(encoder_hidden_dims=hidden), [random_tree(rng, 15, 2)], [15])


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_gradient_checkpointing_changes_no_gradient(pooling: str) -> None:
    rng = np.random.default_rng(8)
    sizes = [60, 50]
    regions = build_regions([random_tree(rng, size, 3) for size in sizes], sizes)
    views = scenes(sizes, dtype=torch.float32)
    plain = tiny(pooling=pooling)
    saving = tiny(pooling=pooling, gradient_checkpointing=True)
    assert torch.equal(run(plain, views, regions), run(saving, views, regions))
    expected, found = gradients(plain), gradients(saving)
    assert expected.keys() == found.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_gradient_the_features_are_the_same() -> None:
    rng = np.random.default_rng(9)
    sizes = [30, 20]
    regions = build_regions([random_tree(rng, size, 3) for size in sizes], sizes, point_index=rng.permutation(50)[:9])
    views = scenes(sizes)
    module = tiny().double()
    with_gradient = module.compare(*views[0], *views[1], regions)
    with torch.inference_mode():
        without = module.compare(*views[0], *views[1], regions)
    for a, b in zip(with_gradient[:2], without[:2], strict=True):
        for x, y in zip([*a.regions, a.points], [*b.regions, b.points], strict=True):
            torch.testing.assert_close(x, y)


class CountCalls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("aggregation", ["max", "mean", "attention"])
def test_no_kernel_is_called_per_region_or_scene(aggregation: str) -> None:
    counted = []
    for num_scenes, children in ((2, 2), (2, 7), (9, 2)):
        rng = np.random.default_rng(10)
        sizes = [360 // num_scenes] * num_scenes
        trees = [random_tree(rng, size, 3, children) for size in sizes]
        module = tiny(aggregation=aggregation)
        views = scenes(sizes, dtype=torch.float32)
        regions = build_regions(trees, sizes)
        assert len(regions.levels) == 4
        with CountCalls() as counter:
            run(module, views, regions)
        counted.append(counter.calls)
    assert counted[0] == counted[1] == counted[2]
    assert counted[0].total() > 100


def test_half_precision_loses_no_gradient() -> None:
    rng = np.random.default_rng(11)
    sizes = [60, 50]
    regions = build_regions([random_tree(rng, size, 2) for size in sizes], sizes)
    views = scenes(sizes, dtype=torch.float32)
    module = tiny(aggregation="attention", pooling="max")
    run(module, views, regions)
    expected = gradients(module)
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(*views[0], *views[1], regions).loss
    loss.backward()
    found = gradients(module)
    assert found.keys() == expected.keys()
    a = torch.cat([found[name].flatten() for name in expected])
    b = torch.cat([expected[name].flatten() for name in expected])
    assert torch.cosine_similarity(a, b, dim=0) > 0.9
    silent = [name for name in expected if expected[name].norm() > 1e-4 and found[name].norm() == 0]
    assert not silent


@pytest.mark.parametrize("place", ["weight", "coordinate"])
def test_a_value_that_is_not_finite_reaches_the_loss(place: str) -> None:
    rng = np.random.default_rng(12)
    regions = build_regions([random_tree(rng, 30, 2)], [30], point_index=np.arange(5))
    views = scenes([30], dtype=torch.float32)
    module = tiny()
    if place == "weight":
        module.encoder.encoder.backbone.mlp[-1].weight.data[0, 0] = torch.nan
    else:
        views[0][0][29] = torch.nan
    assert not torch.isfinite(module(*views[0], *views[1], regions).loss)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    encoder = DbbdEncoder(aggregation="attention")
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.8 * bound < parameter.abs().max() <= bound, name


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"aggregation": "sum"}, {"pooling": "sum"}, {"encoder_hidden_dims": []}):
        with pytest.raises(ValueError):
            DbbdEncoder(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads"):
        DbbdEncoder(aggregation="attention", output_dim=10)


def test_relative_propagation_does_not_see_where_a_scene_lies() -> None:
    rng = np.random.default_rng(0)
    regions = build_regions([random_tree(rng, 60, 2)], [60])
    coord, feat = scenes([60])[0]
    moved = coord + torch.tensor([5.0, -3.0, 2.0], dtype=coord.dtype)
    for relative in (True, False):
        encoder = tiny(relative_propagation=relative).double().encoder
        here, there = (encoder.global_to_local(place, feat, regions) for place in (coord, moved))
        same = all(torch.allclose(a, b, atol=1e-9) for a, b in zip(here.regions, there.regions, strict=True))
        assert same == relative
