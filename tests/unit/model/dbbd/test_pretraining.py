"""The DBBD network and losses reproduce the golden values, and their metrics are sums over scenes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.engine.state import Sums
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch, build_partial_views, build_regions
from dbbd_cli.model.output import DeferredMetric
from unit.model.dbbd.dbbd_reference import Tree, pruned, random_tree, reference_branch
from unit.model.dbbd.networks import make_dbbd

GOLDEN_SIZES: dict[str, Any] = {
    "hidden_dim": 64,
    "output_dim": 64,
    "encoder_hidden_dims": [32, 64],
    "propagator_hidden_dim": 64,
    "projection_dim": 64,
}


def tiny(**changes: Any) -> DbbdPretraining:
    sizes: dict[str, Any] = {
        "hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [6, 8], "propagator_hidden_dim": 8, "projection_dim": 4
    }  # fmt: skip
    return make_dbbd(**{**sizes, **changes})


def tiny_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
    rng = np.random.default_rng(0)
    sizes = [40, 30]
    regions = build_regions([random_tree(rng, size, 2) for size in sizes], sizes, point_index=np.arange(0, 70, 5))
    torch.manual_seed(0)
    coord, feat = torch.randn(70, 3), torch.randn(70, 3)
    return coord, feat, coord + 0.1, feat, regions


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_files(dtype: torch.dtype, mode: str, gradient_checkpointing: bool, golden: Path) -> None:
    with np.load(golden / f"dbbd_{mode}.npz") as archive:
        stored = {key: archive[key] for key in archive.files}

    def tensor(key: str) -> torch.Tensor:
        return torch.from_numpy(stored[key])

    names = ("parent", "level", "center_idx", "indices", "indices_ptr")
    trees = [Tree(*(stored[f"tree{scene}/{name}"] for name in names)) for scene in range(2)]
    regions = build_regions(trees, np.diff(stored["offset"]).tolist())
    views = [tensor(f"view{view}/{kind}").to(dtype) for view in (1, 2) for kind in ("coord", "feat")]
    module = make_dbbd(aggregation=mode, gradient_checkpointing=gradient_checkpointing, **GOLDEN_SIZES).to(dtype)
    module.load_state_dict({key[7:]: tensor(key) for key in stored if key.startswith("weight/")})
    top_down, bottom_up, losses = module.compare(*views, regions)
    losses.total.backward()

    # No input is within 2e-6 of a kink, so these hold on every processor: see tests/golden/README.md.
    value_tolerance, grad_tolerance = (1e-5, 2e-5) if dtype == torch.float32 else (1e-7, 1e-7)

    def close(found: torch.Tensor, key: str) -> None:
        torch.testing.assert_close(found, tensor(key), rtol=value_tolerance, atol=value_tolerance, check_dtype=False)

    close(losses.total, "loss/total")
    close(losses.region, "loss/region")
    close(losses.point, "loss/point")
    for number, level in enumerate(regions.levels):
        close(losses.levels[number].loss, f"loss/region_level_{number}")
        close(top_down.regions[number], f"g2l/level_{number}")
        close(bottom_up.regions[number], f"l2g/level_{number}")
        assert level.offset.tolist() == stored[f"offsets/level_{number}"].tolist()
    close(top_down.points, "point_feats_g2l")
    close(bottom_up.points, "point_feats_l2g")

    compared = [key for key in stored if key.startswith("grad/")]
    assert len(compared) > 40
    largest_of_all = max(float(tensor(key).abs().max()) for key in compared)
    wrong = {}
    for key in compared:
        expected, found = tensor(key), module.get_parameter(key[5:]).grad
        assert found is not None
        # A bias of the keys shifts all scores equally: its gradient is zero except for rounding.
        largest = largest_of_all if key.endswith("key_proj.bias") else float(expected.abs().max())
        difference = float((found - expected).abs().max()) / largest
        if difference > grad_tolerance:
            wrong[key] = difference
    assert not wrong


def test_state_dict_keys_are_those_of_the_first_implementation() -> None:
    keys = set(tiny(aggregation="attention").state_dict())

    def sequence(prefix: str, numbers: tuple[int, ...]) -> set[str]:
        return {f"{prefix}.{number}.{kind}" for number in numbers for kind in ("weight", "bias")}

    attention = "encoder.aggregator.attention"
    expected = {f"{attention}.query"} | sequence(f"{attention}.spatial_encoder", (0, 2))
    for name in ("key_proj", "value_proj", "out_proj"):
        expected |= {f"{attention}.{name}.weight", f"{attention}.{name}.bias"}
    for prefix in (
        "encoder.raw_projection.mlp", "encoder.combine_projection.projection.mlp", "encoder.propagator.mlp",
        "encoder.aggregator.pre_mlp", "loss.region_projection.layers", "loss.point_projection.layers",
    ):  # fmt: skip
        expected |= sequence(prefix, (0, 1, 3))
    assert keys == expected | sequence("encoder.encoder.backbone.mlp", (0, 1, 3, 4, 6))


def test_metrics_are_sums_over_scenes() -> None:
    module = tiny()
    batch = tiny_batch()
    output = module(*batch)
    _, _, losses = module.compare(*batch)
    assert output.num_samples == 2
    sums = Sums()
    sums.add(output)
    sums.flush()
    mean = {name: value / 2 for name, value in sums.values.items()}
    assert output.loss.item() == pytest.approx(mean["region_loss"] + 0.5 * mean["point_loss"])
    for number, level in enumerate(batch[-1].levels):
        assert mean[f"chance_level_{number}"] == pytest.approx(math.log(level.num_regions))
        assert mean[f"loss_level_{number}"] == pytest.approx(losses.levels[number].loss.item())
        assert 0 <= mean[f"top1_level_{number}"] <= 1
        assert mean[f"scenes_level_{number}"] == 1
    assert mean["point_chance"] == pytest.approx(math.log(14))
    assert 0 < mean["feature_std"] < 1.1
    assert 1 <= mean["effective_rank"] <= 8
    assert mean["alignment"] > 0 > mean["uniformity"]
    values = [value.tensor if isinstance(value, DeferredMetric) else value for value in output.metrics.values()]
    assert not any(value.requires_grad for value in values)


def test_training_reduces_the_loss() -> None:
    torch.manual_seed(0)
    module, batch = tiny(), tiny_batch()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output = module(*batch)
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_indicators_of_collapse_are_computed_in_full_precision_under_autocast() -> None:
    batch = tiny_batch()
    torch.manual_seed(3)
    module = tiny()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = module(*batch).metrics
    for name in ("uniformity", "effective_rank", "feature_std"):
        metric = metrics[name]
        value = metric.tensor if isinstance(metric, DeferredMetric) else metric
        assert value.dtype == torch.float32, name
        # A value in bf16 would have only eight bits.
        assert not torch.equal(value, value.bfloat16().float()), name


def test_negatives_of_the_same_scene_give_the_losses_of_the_scenes_alone() -> None:
    rng = np.random.default_rng(0)
    sizes = [40, 30]
    trees = [random_tree(rng, size, 2) for size in sizes]
    coord1, feat1, coord2, feat2 = (torch.randn(70, 3, dtype=torch.float64) for _ in range(4))
    module = tiny(negatives="scene").double()
    together = module.compare(coord1, feat1, coord2, feat2, build_regions(trees, sizes))[2]
    alone = []
    for tree, rows in zip(trees, (slice(0, 40), slice(40, 70)), strict=True):
        parts = [part[rows] for part in (coord1, feat1, coord2, feat2)]
        alone.append(module.compare(*parts, build_regions([tree], [rows.stop - rows.start]))[2])
    torch.testing.assert_close(together.point, (40 * alone[0].point + 30 * alone[1].point) / 70)
    for number, level in together.levels.items():
        counts = [len(tree.level[tree.level == number]) for tree in trees]
        expected = sum(one.levels[number].loss * count for one, count in zip(alone, counts, strict=True))
        torch.testing.assert_close(level.loss, expected / sum(counts))
    assert together.levels.keys() == {1, 2}
    assert tiny().double().compare(coord1, feat1, coord2, feat2, build_regions(trees, sizes))[2].levels.keys() == {
        0,
        1,
        2,
    }


def test_views_of_all_points_have_the_loss_of_whole_views() -> None:
    coord1, feat1, coord2, feat2, regions = tiny_batch()
    trees, sizes = two_trees()
    every, picked = np.ones(70, dtype=bool), np.arange(0, 70, 5)
    first, (second,) = build_partial_views(trees, sizes, [every, every], [picked])
    for negatives in ("batch", "scene"):
        torch.manual_seed(0)
        module = tiny(negatives=negatives)
        expected = module(coord1, feat1, coord2, feat2, regions)
        found = module(coord1, feat1, coord2, feat2, first, second)
        assert torch.equal(found.loss, expected.loss)
        assert found.metrics.keys() == expected.metrics.keys()


def test_a_single_process_has_all_negatives_of_a_batch() -> None:
    found = []
    for negatives in ("batch", "local"):
        torch.manual_seed(0)
        module = tiny(negatives=negatives)
        output = module(*tiny_batch())
        output.loss.backward()
        found.append([output.loss, *(weight.grad for weight in module.parameters() if weight.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def two_trees() -> tuple[list[Tree], list[int]]:
    rng = np.random.default_rng(0)
    return [random_tree(rng, size, 2) for size in (40, 30)], [40, 30]


def partial_views(seed: int, shares: list[float]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Points of each view, and those of each view that the first has too."""
    rng = np.random.default_rng(seed)
    keep = [rng.random(70) < share for share in shares]
    tree = two_trees()[0][0]
    for node, mask in zip((2, 3, 4), keep, strict=False):
        mask[tree.indices[tree.indices_ptr[node] : tree.indices_ptr[node + 1]]] = False  # a region that is gone
    return keep, [np.flatnonzero(keep[0] & mask) for mask in keep[1:]]


def reference_of_view(
    module: DbbdPretraining, view: list[torch.Tensor], keep: np.ndarray, *, down: bool
) -> tuple[dict[tuple[int, int], torch.Tensor], dict[int, torch.Tensor]]:
    """Features by (scene, node) and by point, scene by scene on trees without the points that are gone."""
    regions, points = {}, {}
    trees, _ = two_trees()
    for scene, (tree, part) in enumerate(zip(trees, (slice(0, 40), slice(40, 70)), strict=True)):
        small, left = pruned(tree, keep[part])
        levels, of_points = reference_branch(module, view[0][part], view[1][part], small, down=down)
        rows = {level: iter(features) for level, features in levels.items()}
        for node, level in zip(left, small.level.tolist(), strict=True):
            regions[scene, node] = next(rows[level])
        points.update(zip((np.flatnonzero(keep[part]) + part.start).tolist(), of_points, strict=True))
    return regions, points


@pytest.mark.parametrize("mode", ["max", "attention"])
def test_only_what_two_views_have_in_common_is_compared(mode: str) -> None:
    trees, sizes = two_trees()
    torch.manual_seed(0)
    views = [[torch.randn(70, 3, dtype=torch.float64) for _ in range(2)] for _ in range(3)]
    keep, points = partial_views(1, [0.7, 0.4, 0.2])
    module = tiny(aggregation=mode).double()
    first, (second, local) = build_partial_views(trees, sizes, keep, points)
    _, _, losses = module.compare(*views[0], *views[1], first, second, [(*views[2], local)])

    down = reference_of_view(module, views[0], keep[0], down=True)
    totals = []
    for view, mask, common in zip(views[1:], keep[1:], points, strict=True):
        up = reference_of_view(module, view, mask, down=False)
        by_level = []
        for number in range(3):
            names = [name for name in down[0] if name in up[0] and trees[name[0]].level[name[1]] == number]
            assert number < 2 or len(names) < sum(int((tree.level == number).sum()) for tree in trees)
            q, k = (
                module.loss.region_projection(torch.stack([part[0][name] for name in names])) for part in (down, up)
            )
            by_level.append(torch.nn.functional.cross_entropy(q @ k.T / 0.1, torch.arange(len(names))))
        q, k = (module.loss.point_projection(torch.stack([part[1][p] for p in common.tolist()])) for part in (down, up))
        point = torch.nn.functional.cross_entropy(q @ k.T / 0.1, torch.arange(len(common)))
        totals.append(torch.stack(by_level).mean() + 0.5 * point)
        if view is views[1]:
            torch.testing.assert_close(losses.point, point)
            torch.testing.assert_close(losses.region, torch.stack(by_level).mean())
    assert losses.local is not None
    torch.testing.assert_close(losses.local, totals[1])
    torch.testing.assert_close(losses.total, (totals[0] + totals[1]) / 2)
    losses.total.backward()


def test_negatives_of_partial_views_come_from_the_same_scene() -> None:
    trees, sizes = two_trees()
    torch.manual_seed(0)
    views = [torch.randn(70, 3, dtype=torch.float64) for _ in range(4)]
    keep, points = partial_views(1, [0.7, 0.4])
    module = tiny(negatives="scene").double()
    first, (second,) = build_partial_views(trees, sizes, keep, points)
    together = module.compare(*views, first, second)[2]
    alone = []
    for tree, part in zip(trees, (slice(0, 40), slice(40, 70)), strict=True):
        common = points[0][(points[0] >= part.start) & (points[0] < part.stop)] - part.start
        one, (other,) = build_partial_views([tree], [part.stop - part.start], [mask[part] for mask in keep], [common])
        alone.append((len(common), module.compare(*(view[part] for view in views), one, other)[2]))
    total = sum(count for count, _ in alone)
    torch.testing.assert_close(together.point, sum(count * losses.point for count, losses in alone) / total)
