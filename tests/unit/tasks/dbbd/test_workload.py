from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.scenes.trees.region_tree import RegionTree
from dbbd_cli.data.scenes.views import make_views
from dbbd_cli.engine.runtime import choose_runtime, seed_everything
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.dbbd.regions import build_regions
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import LEAST_RANK, LEAST_STD, DbbdWorkload, make_network

Make = Callable[..., DbbdConfig]
CPU = choose_runtime("cpu", "fp32")


def make_task(config: DbbdConfig, splits: tuple[str, ...] = ("train", "val")) -> DbbdWorkload:
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    seed_everything(prepared.seed)
    return DbbdWorkload(prepared, manifest, splits=splits, pretrained=True, pin_memory=False, progress=Silent())


def first_batch(task: DbbdWorkload, epoch: int = 1) -> Any:
    return next(task.loaders["train"].batches(epoch))


# Features


@pytest.mark.parametrize(
    "features",
    [["normals"], ["color"], ["height"], ["height", "color"], ["color", "normals", "height"]],
    ids="+".join,
)
def test_features_are_those_asked_for_in_their_order(tiny_point_config: Make, features: list[str]) -> None:
    task = make_task(tiny_point_config(data__features=features))
    raw = first_batch(task)
    coord1, feat1, coord2, feat2, regions = task.to_device(raw, CPU.device, train=True)
    normal = torch.as_tensor(raw.normal) if "normals" in features else None
    expected = make_views(
        raw.coord,
        normal,
        raw.num_points,
        seed=42,
        epoch=1,
        samples=raw.samples.numpy(),
        rotation_degrees=180.0,
        scale=0.1,
    )
    for view, coord, feat in zip(expected, (coord1, coord2), (feat1, feat2), strict=True):
        assert torch.equal(coord, view.coord)
        parts = {
            "normals": view.normal,
            "color": None if raw.color is None else raw.color / 255.0,
            "height": view.coord[:, 2:],
        }
        assert torch.equal(feat, torch.cat([parts[feature] for feature in features], dim=1))
        assert feat.shape == (2000, task.config.data.feature_dim)
        assert feat.dtype == torch.float32
    assert (raw.color is None) == ("color" not in features)
    task.module(coord1, feat1, coord2, feat2, regions).loss.backward()

    coord, feat, _ = task.unchanged(raw, CPU.device)
    assert torch.equal(coord, raw.coord)
    still = {"normals": raw.normal, "color": parts["color"], "height": raw.coord[:, 2:]}
    assert torch.equal(feat, torch.cat([still[feature] for feature in features], dim=1))


def test_the_views_of_training_change_with_the_epoch_and_those_of_validation_do_not(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    val = [next(task.loaders["val"].batches(0)) for _ in range(2)]
    one, two = (task.to_device(raw, CPU.device, train=False) for raw in val)
    assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    assert torch.equal(one[4].point, two[4].point)
    coords = []
    for epoch in (1, 2):
        (raw,) = [raw for raw in task.loaders["train"].batches(epoch) if 0 in raw.samples.tolist()]
        place = raw.samples.tolist().index(0)
        coords.append(task.to_device(raw, CPU.device, train=True)[0][1000 * place : 1000 * (place + 1)])
    assert not torch.allclose(coords[0], coords[1], atol=1e-2)


# What is logged


def small_tree(leaf_sizes: list[int]) -> RegionTree:
    """A root with a child for each of the sizes; without any, the root alone, of 10 points."""
    total = sum(leaf_sizes) or 10
    counts = [total, *leaf_sizes]
    starts = np.cumsum([0, *leaf_sizes])
    indices = [np.arange(total), *(np.arange(a, b) for a, b in itertools.pairwise(starts))]
    return RegionTree(
        parent=np.array([-1] + [0] * len(leaf_sizes), np.int32),
        level=np.array([0] + [1] * len(leaf_sizes), np.int32),
        center_idx=np.array([part[0] for part in indices[: len(counts)]], np.int32),
        indices=np.concatenate(indices[: len(counts)]).astype(np.int32),
        indices_ptr=np.cumsum([0, *counts]),
    )


def test_means_of_a_level_are_over_the_batches_that_had_it(tiny_point_config: Make) -> None:
    """Two scenes with a level 1, then one that is its root alone: there neither level has two rows to tell apart."""
    task = make_task(tiny_point_config())
    rng = torch.Generator().manual_seed(0)
    sums, seen = Sums(), []
    for trees in ([small_tree([6, 5]), small_tree([4, 6])], [small_tree([])]):
        sizes = [int(tree.indices_ptr[1]) for tree in trees]
        regions = build_regions(trees, sizes)
        coord, feat = (torch.randn(sum(sizes), 3, generator=rng) for _ in range(2))
        with torch.no_grad():
            output = task.module(coord, feat, coord, feat, regions)
        sums.add(output)
        single = Sums()
        single.add(output)
        single.flush()
        seen.append({name: value / len(trees) for name, value in single.values.items()})
    sums.flush()
    assert "loss_level_1" in seen[0]
    assert "loss_level_1" not in seen[1]
    assert "loss_level_0" not in seen[1]
    metrics = task.summarize(sums.values, sums.num_samples)
    assert sums.num_samples == 3
    for name in ("loss_level_0", "loss_level_1", "chance_level_1", "top1_level_1"):
        assert metrics[name] == pytest.approx(seen[0][name], rel=1e-6)
    assert metrics["chance_level_1"] == pytest.approx(np.log(4), rel=1e-6)
    for name in ("region_loss", "point_loss", "feature_std"):
        assert metrics[name] == pytest.approx((2 * seen[0][name] + seen[1][name]) / 3, rel=1e-5)
    assert not any(name.startswith("scenes_level_") for name in metrics)


def test_levels_count_by_their_scenes(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    sums = {"loss": 12.0, "loss_level_1": 6.0, "scenes_level_1": 2.0, "loss_level_12": 5.0, "scenes_level_12": 1.0}
    assert task.summarize(sums, 4) == {"loss": 3.0, "loss_level_1": 3.0, "loss_level_12": 5.0}


@pytest.mark.parametrize(
    ("spread", "rank", "warned"),
    [
        (0.5, 20.0, False),
        (LEAST_STD, LEAST_RANK, False),
        (LEAST_STD - 0.01, 20.0, True),
        (0.5, LEAST_RANK - 0.1, True),
    ],
)
def test_a_collapse_is_warned_of(tiny_point_config: Make, spread: float, rank: float, warned: bool) -> None:
    text = make_task(tiny_point_config()).warning({"feature_std": spread, "effective_rank": rank, "loss": 1.0})
    assert bool(text) == warned
    if warned:
        assert (f"deviation {spread:.3f}" in text) == (spread < LEAST_STD)
        assert (f"they fill {rank:.1f} of 16 dimensions" in text) == (spread >= LEAST_STD)
        assert "training.learning_rate" in text


def test_a_network_that_has_collapsed_is_noticed_and_a_fresh_one_is_not(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())

    def warning() -> str:
        with torch.no_grad():
            output = task.module(*task.to_device(first_batch(task), CPU.device, train=True))
        sums = Sums()
        sums.add(output)
        sums.flush()
        return task.warning(task.summarize(sums.values, sums.num_samples))

    assert warning() == ""
    last = task.module.state_dict()["encoder.encoder.backbone.mlp.3.weight"]
    assert last.shape == (16, 16)
    last.zero_()  # every point has the bias for its features
    assert "collapsing" in warning()


# Names and words


def test_batches_are_named_by_their_scenes(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    keys = [sample.key for sample in task.manifest.of("train")]
    raw = first_batch(task)
    assert task.names(raw, "train") == [keys[index] for index in raw.samples.tolist()]
    assert task.names(next(task.loaders["val"].batches(0)), "val") == [task.manifest.of("val")[0].key]


def test_classes_have_the_names_of_the_configuration_or_of_rooms_or_numbers(
    tiny_point_config: Make, scene_folder: Callable[..., Path]
) -> None:
    rooms = make_task(tiny_point_config(), ())
    assert [rooms.class_name(label) for label in (0, 8, 9)] == ["floor", "sofa", "class 9"]
    named = make_task(tiny_point_config(data__class_names=["ground", "rest"]), ())
    assert [named.class_name(label) for label in (0, 1, 2)] == ["ground", "rest", "class 2"]
    folder = make_task(tiny_point_config(data__path=str(scene_folder())), ())
    assert folder.class_name(0) == "class 0"


def test_network_and_data_are_put_into_words(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> None:
    task = make_task(tiny_point_config(model__aggregation="attention", model__pooling="mean"), ())
    assert task.model_name == "DBBD, attention aggregation, mean pooling"
    assert task.data_description == "synthetic furnished rooms (features: normals)"
    root = scene_folder(colors=True)
    task = make_task(tiny_point_config(data__path=str(root), data__features=["height", "color"]), ())
    assert task.data_description == f"scenes of {root} (features: height, color)"
    assert (task.monitor, task.sample_unit) == ("loss", "scenes")


# Single scenes


def test_single_scenes_come_whole_in_order_and_with_labels(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config(), ())
    scenes = list(task.single_scenes("train"))
    assert [task.names(scene, "train") for scene in scenes] == [[sample.key] for sample in task.manifest.of("train")]
    for scene, prepared in zip(scenes, task.prepared_scenes("train"), strict=True):
        assert scene.regions.point.tolist() == list(range(1000))
        assert scene.segment is not None
        assert len(scene.segment.unique()) > 3
        assert np.array_equal(prepared.coord, scene.coord.numpy())
        assert prepared.tree.num_regions == sum(level.num_regions for level in scene.regions.levels)


def test_loaders_are_made_for_the_splits_that_are_wanted_and_only_training_is_shuffled(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config(), ("train", "test"))
    assert set(task.loaders) == {"train", "test"}
    assert task.loaders["train"].shuffle
    assert not task.loaders["test"].shuffle


def test_a_scene_that_is_gone_is_told_when_the_task_is_made(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = scene_folder({"train": 2, "val": 1})
    config, manifest = prepare_run(
        tiny_point_config(data__path=str(root), data__cache_dir=str(tmp_path / "cache")), Silent()
    )
    assert isinstance(config, DbbdConfig)
    (root / "train" / "scene0001_00.pkl").unlink()

    def make(split: str) -> DbbdWorkload:
        return DbbdWorkload(config, manifest, splits=(split,), pretrained=True, pin_memory=False, progress=Silent())

    assert make("val").loaders["val"].num_samples == 1
    with pytest.raises(DataError, match=r"scene0001_00\.pkl cannot be opened"):
        make("train")


# The network


def test_the_network_has_the_sizes_and_the_loss_of_the_configuration() -> None:
    values = {
        "task": "dbbd",
        "data": {"features": ["color", "height"]},
        "model": {
            "hidden_dim": 6, "output_dim": 10, "encoder_hidden_dims": [5, 7, 9], "propagator_hidden_dim": 11,
            "projection_dim": 13, "aggregation": "attention", "pooling": "mean", "num_heads": 5,
            "gradient_checkpointing": True,
        },
        "loss": {"temperature": 0.3, "region_weight": 0.25, "point_weight": 2.0},
    }  # fmt: skip
    config = config_from_mapping(values, origin="test")
    assert isinstance(config, DbbdConfig)
    network = make_network(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["encoder.raw_projection.mlp.0.weight"] == (6, 4)
    backbone = [shapes[f"encoder.encoder.backbone.mlp.{layer}.weight"] for layer in (0, 3, 6, 9)]
    assert backbone == [(5, 9), (7, 5), (9, 7), (10, 9)]
    assert shapes["encoder.propagator.mlp.0.weight"] == (11, 13)
    assert shapes["encoder.aggregator.attention.query"] == (1, 10)
    assert shapes["loss.point_projection.layers.3.weight"] == (13, 96)
    assert (network.loss.temperature, network.loss.region_weight, network.loss.point_weight) == (0.3, 0.25, 2.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.pooling", "mean"),
        ("model.aggregation", "mean"),
        ("loss.temperature", 0.5),
        ("loss.region_weight", 0.2),
        ("loss.point_weight", 3.0),
        ("loss.point_samples", 100),
        ("data.views.rotation_degrees", 10.0),
        ("data.views.scale", 0.5),
        ("data.max_depth", 1),
        ("data.min_region_points", 30),
    ],
)
def test_every_setting_of_the_task_changes_the_loss(tiny_point_config: Make, key: str, value: object) -> None:
    losses = []
    for changes in ({}, {key: value}):
        task = make_task(tiny_point_config(**changes))
        with torch.no_grad():
            losses.append(float(task.module(*task.to_device(first_batch(task), CPU.device, train=True)).loss))
    assert abs(losses[0] - losses[1]) > 1e-4


def test_weights_to_start_from_are_followed_only_where_that_is_wanted(tiny_point_config: Make, tmp_path: Path) -> None:
    source = make_task(tiny_point_config(seed=1), ()).module
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    config = tiny_point_config(model__weights=str(tmp_path / "weights.pth"))
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    for pretrained in (True, False):
        task = DbbdWorkload(prepared, manifest, splits=(), pretrained=pretrained, pin_memory=False, progress=Silent())
        own, other = task.module.state_dict(), source.state_dict()
        assert all(torch.equal(own[name], other[name]) for name in own) == pretrained


def test_weights_of_another_size_are_refused(tiny_point_config: Make, tmp_path: Path) -> None:
    torch.save(make_task(tiny_point_config(), ()).module.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not fit the network") as caught:
        make_task(tiny_point_config(model__weights=str(tmp_path / "weights.pth"), model__hidden_dim=8))
    assert caught.value.details
