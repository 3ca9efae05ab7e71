from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dbbd_reference import Tree, random_tree

from dbbd_cli.engine.state import Sums
from dbbd_cli.errors import CheckpointError
from dbbd_cli.model.dbbd_encoder import BranchFeatures
from dbbd_cli.model.dbbd_loss import DbbdLosses
from dbbd_cli.model.dbbd_pretraining import DbbdPretraining, load_pretraining
from dbbd_cli.model.dbbd_regions import RegionBatch, build_regions
from dbbd_cli.model.output import OnReading

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
    return DbbdPretraining(**{**sizes, **changes})


def tiny_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
    rng = np.random.default_rng(0)
    sizes = [40, 30]
    regions = build_regions([random_tree(rng, size, 2) for size in sizes], sizes, point_index=np.arange(0, 70, 5))
    torch.manual_seed(0)
    coord, feat = torch.randn(70, 3), torch.randn(70, 3)
    return coord, feat, coord + 0.1, feat, regions


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["max", "mean", "attention"])
def test_golden_files(mode: str, gradient_checkpointing: bool, shared: Path) -> None:
    path = shared / "golden" / f"dbbd_{mode}.npz"
    if not path.exists():
        pytest.skip("no golden files")
    with np.load(path) as archive:
        golden = {key: archive[key] for key in archive.files}

    def tensor(key: str) -> torch.Tensor:
        return torch.from_numpy(golden[key])

    names = ("parent", "level", "center_idx", "indices", "indices_ptr")
    trees = [Tree(*(golden[f"tree{scene}/{name}"] for name in names)) for scene in range(2)]
    regions = build_regions(trees, np.diff(golden["offset"]).tolist())
    views = [tensor(f"view{view}/{kind}") for view in (1, 2) for kind in ("coord", "feat")]

    def compare(nudge: float) -> tuple[DbbdPretraining, BranchFeatures, BranchFeatures, DbbdLosses]:
        module = DbbdPretraining(aggregation=mode, gradient_checkpointing=gradient_checkpointing, **GOLDEN_SIZES)
        module.load_state_dict({key[7:]: tensor(key) for key in golden if key.startswith("weight/")})
        with torch.no_grad():
            module.encoder.encoder.backbone.mlp[4].bias += nudge
        return module, *module.compare(*views, regions)

    module, top_down, bottom_up, losses = compare(0.0)

    def close(found: torch.Tensor, key: str) -> None:
        torch.testing.assert_close(found, tensor(key), rtol=1e-5, atol=1e-5, check_dtype=False)

    close(losses.total, "loss/total")
    close(losses.region, "loss/region")
    close(losses.point, "loss/point")
    for number, level in enumerate(regions.levels):
        close(losses.levels[number].loss, f"loss/region_level_{number}")
        close(top_down.regions[number], f"g2l/level_{number}")
        close(bottom_up.regions[number], f"l2g/level_{number}")
        assert level.offset.tolist() == golden[f"offsets/level_{number}"].tolist()
    close(top_down.points, "point_feats_g2l")
    close(bottom_up.points, "point_feats_l2g")

    def wrong_gradients(module: DbbdPretraining, losses: DbbdLosses) -> list[str]:
        losses.total.backward()
        names = [name for name, _ in module.named_parameters() if f"grad/{name}" in golden]
        assert len(names) == sum(key.startswith("grad/") for key in golden) > 40
        wrong = []
        for name in names:
            expected, found = tensor(f"grad/{name}"), module.get_parameter(name).grad
            assert found is not None
            # A bias of the keys moves all scores alike: its gradient is zero but for rounding.
            bound = 1e-7 if name.endswith("key_proj.bias") else 1e-4 * expected.abs().max()
            if (found - expected).abs().max() > bound:
                wrong.append(name)
        return wrong

    # One input of a ReLU is 1e-8 with the weights as they are stored: their rounding, and that of the processor at
    # hand, decide on which side of the kink it lies, and move some gradients by 2e-4, those of plain loops as well.
    # Changes of the size of rounding put it on the side where it was when the gradients were written.
    found = wrong_gradients(module, losses)
    for nudge in (3e-8, -3e-8, 1e-7, -1e-7):
        if not found:
            break
        module, _, _, losses = compare(nudge)
        found = wrong_gradients(module, losses)
    assert not found


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
    values = [value.tensor if isinstance(value, OnReading) else value for value in output.metrics.values()]
    assert not any(value.requires_grad for value in values)


def test_training_brings_the_loss_down() -> None:
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


@pytest.mark.parametrize("style", ["first", "ours", "bare"])
def test_weights_are_loaded_from_checkpoints(style: str, tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    state = source.state_dict()
    parts = {
        prefix: {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(prefix)}
        for prefix in ("encoder", "loss")
    }
    optimizer = torch.optim.AdamW(source.parameters()).state_dict()
    content = {
        "first": {
            "epoch": 3,
            "encoder_state_dict": parts["encoder"],
            "loss_fn_state_dict": parts["loss"],
            "optimizer_state_dict": optimizer,
            "best_val_loss": 1.5,
            "config": {"max_depth": 4},
        },
        "ours": {"module": state, "epoch": 3, "optimizer": optimizer},
        "bare": state,
    }[style]
    torch.save(content, tmp_path / "ckpt.pth")
    load_pretraining(target, tmp_path / "ckpt.pth")
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    torch.save({"module": tiny(aggregation="attention", output_dim=12).state_dict()}, path)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        load_pretraining(tiny(aggregation="max"), path)
    assert any("unknown: encoder.aggregator.attention.query" in line for line in caught.value.details)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_pretraining(tiny(), path)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    path = tmp_path / "ckpt.pth"
    torch.save({"encoder_state_dict": {}, "loss_fn_state_dict": {}, "config": Payload()}, path)
    with pytest.raises(CheckpointError):
        load_pretraining(tiny(), path)
    assert not marker.exists()


def test_signs_of_a_collapse_are_computed_in_full_precision_under_autocast() -> None:
    batch = tiny_batch()
    torch.manual_seed(3)
    module = tiny()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        metrics = module(*batch).metrics
    for name in ("uniformity", "effective_rank", "feature_std"):
        metric = metrics[name]
        value = metric.tensor if isinstance(metric, OnReading) else metric
        assert value.dtype == torch.float32, name
        # A number of half precision would have only eight bits.
        assert not torch.equal(value, value.bfloat16().float()), name
