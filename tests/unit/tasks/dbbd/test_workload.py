"""A workload makes batches, views, features and the network as configured, and warns of collapse."""

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
from dbbd_cli.data.scenes.cuts import Cuts, kept_points
from dbbd_cli.data.scenes.trees.region_tree import RegionTree
from dbbd_cli.data.scenes.views import make_views
from dbbd_cli.engine.runtime import choose_runtime, seed_everything
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.dbbd.regions import build_regions
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import MIN_EFFECTIVE_RANK, MIN_FEATURE_STD, DbbdWorkload, make_network

Make = Callable[..., DbbdConfig]
CPU = choose_runtime("cpu", "fp32")


def make_workload(config: DbbdConfig, splits: tuple[str, ...] = ("train", "val")) -> DbbdWorkload:
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    seed_everything(prepared.seed)
    return DbbdWorkload(prepared, manifest, splits=splits, pretrained=True, pin_memory=False, progress=Silent())


def first_batch(workload: DbbdWorkload, epoch: int = 1) -> Any:
    return next(workload.loaders["train"].batches(epoch))


# Features


def test_properties_of_the_files_are_features_by_name(tiny_point_config: Make, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for number in range(3):
        values = {name: random.random(500) for name in ("scalar_intensity", "curvature")}
        np.savez(tmp_path / f"{number}.npz", coord=random.random((500, 3)), **values)
    features = ["curvature", "normals", "intensity"]
    workload = make_workload(
        tiny_point_config(data__path=str(tmp_path), data__source="folder", data__features=features)
    )
    raw = first_batch(workload)
    found = workload.to_device(raw, CPU.device, train=True)[1]
    with np.load(tmp_path / workload.names(raw, "train")[0]) as scene:
        for column, name in ((0, "curvature"), (4, "scalar_intensity")):
            values = scene[name]
            assert np.allclose(found[:500, column], (values - values.mean()) / values.std(), atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [["normals"], ["color"], ["height"], ["height", "color"], ["color", "normals", "height"], ["geometry", "height"]],
    ids="+".join,
)
def test_features_are_the_configured_ones_in_order(tiny_point_config: Make, features: list[str]) -> None:
    workload = make_workload(tiny_point_config(data__features=features))
    raw = first_batch(workload)
    coord1, feat1, coord2, feat2, regions = workload.to_device(raw, CPU.device, train=True)
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
            "geometry": None if raw.geometry is None else raw.geometry.float(),
        }
        assert torch.equal(feat, torch.cat([parts[feature] for feature in features], dim=1))
        assert feat.shape == (2000, workload.config.data.feature_dim)
        assert feat.dtype == torch.float32
    assert (raw.color is None) == ("color" not in features)
    workload.module(coord1, feat1, coord2, feat2, regions).loss.backward()

    coord, feat, _ = workload.without_views(raw, CPU.device)
    assert torch.equal(coord, raw.coord)
    still = {**parts, "normals": raw.normal, "height": raw.coord[:, 2:]}
    assert torch.equal(feat, torch.cat([still[feature] for feature in features], dim=1))


def test_noise_is_added_to_all_features_but_normals_and_channels_are_dropped(tiny_point_config: Make) -> None:
    features = ["height", "normals", "geometry"]
    plain, noisy, dropped = (
        make_workload(tiny_point_config(**{"data.features": features, f"data.views.{key}": value}))
        for key, value in (("jitter", 0.0), ("feature_noise", 0.3), ("feature_dropout", 0.4))
    )
    raw = first_batch(plain)
    sizes = raw.num_points.tolist()
    _, before1, _, before2, _ = plain.to_device(raw, CPU.device, train=True)
    _, after1, _, after2, _ = noisy.to_device(raw, CPU.device, train=True)
    noise = torch.stack([after1 - before1, after2 - before2]).numpy()
    assert np.abs(noise[:, :, 1:4]).max() == 0
    other = noise[:, :, [0, *range(4, 33)]]
    assert other.std(axis=1) == pytest.approx(np.full((2, 30), 0.3), rel=0.1)
    assert abs(np.corrcoef(other[0].ravel(), other[1].ravel())[0, 1]) < 0.02

    _, after1, _, after2, _ = dropped.to_device(raw, CPU.device, train=True)
    kept = []
    for before, after in ((before1, after1), (before2, after2)):
        for one, two in zip(before.split(sizes), after.split(sizes), strict=True):
            keep = (two != 0).any(dim=0) | (one == 0).all(dim=0)
            assert torch.equal(two, one * keep)
            kept.append(tuple(keep.tolist()))
    assert len(set(kept)) == len(kept)  # each view of each scene loses its own channels
    assert np.mean(kept) == pytest.approx(0.6, abs=0.12)


def test_only_the_views_of_training_change_with_the_epoch(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config())
    val = [next(workload.loaders["val"].batches(0)) for _ in range(2)]
    one, two = (workload.to_device(raw, CPU.device, train=False) for raw in val)
    assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    assert torch.equal(one[4].point, two[4].point)
    coords = []
    for epoch in (1, 2):
        (raw,) = [raw for raw in workload.loaders["train"].batches(epoch) if 0 in raw.samples.tolist()]
        place = raw.samples.tolist().index(0)
        coords.append(workload.to_device(raw, CPU.device, train=True)[0][1000 * place : 1000 * (place + 1)])
    assert not torch.allclose(coords[0], coords[1], atol=1e-2)


CUTS = {"point_dropout": 0.2, "mask": 0.3, "mask_level": 1, "crop": 0.7, "local_views": 2, "local_size": 0.1}


def test_views_lose_the_points_that_the_settings_say(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config(**{f"data.views.{key}": value for key, value in CUTS.items()}))
    raw = first_batch(workload)
    coord1, feat1, coord2, feat2, regions, second, local = workload.to_device(raw, CPU.device, train=True)
    scenes = list(workload.prepared_scenes("train"))
    parts = [
        kept_points(scenes[sample].coord, scenes[sample].tree, Cuts(**CUTS), seed=42, epoch=1, sample=sample)
        for sample in raw.samples.tolist()
    ]
    masks = [np.concatenate(part) for part in zip(*parts, strict=True)]
    views = [second, *(piece[2] for piece in local)]
    for mask, part in zip(masks, [regions, *(view.regions for view in views)], strict=True):
        assert sorted(part.leaves.index.tolist()) == np.flatnonzero(mask).tolist()
    points = [view.regions.point for view in views]
    for mask, compared in zip(masks[1:], points, strict=True):
        assert len(compared) == 64
        assert (masks[0] & mask)[compared].all()
    assert torch.equal(regions.point, torch.cat(points))

    # Two more views, and the first two as they would be without cuts.
    plain = make_workload(tiny_point_config()).to_device(raw._replace(partial=()), CPU.device, train=True)
    for found, expected in zip((coord1, feat1, coord2, feat2), plain, strict=False):
        assert torch.equal(found, expected)
    assert len({float(coord.sum()) for coord in (coord1, coord2, *(piece[0] for piece in local))}) == 4
    output = workload.module(coord1, feat1, coord2, feat2, regions, second, local)
    output.loss.backward()
    assert "local_loss" in output.metrics


def test_without_cuts_batches_are_made_as_ever(tiny_point_config: Make) -> None:
    config = tiny_point_config(**{"data.views.local_size": 0.5, "data.views.mask_level": 2})
    assert first_batch(make_workload(config)).partial == ()


# What is logged


def small_tree(leaf_sizes: list[int]) -> RegionTree:
    """A root with a child for each size; without sizes, a root of 10 points alone."""
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


def test_level_metrics_average_over_the_batches_that_have_the_level(tiny_point_config: Make) -> None:
    """Two scenes with a level 1, then one with only a root, where no level has two rows to compare."""
    workload = make_workload(tiny_point_config())
    rng = torch.Generator().manual_seed(0)
    sums, seen = Sums(), []
    for trees in ([small_tree([6, 5]), small_tree([4, 6])], [small_tree([])]):
        sizes = [int(tree.indices_ptr[1]) for tree in trees]
        regions = build_regions(trees, sizes)
        coord, feat = (torch.randn(sum(sizes), 3, generator=rng) for _ in range(2))
        with torch.no_grad():
            output = workload.module(coord, feat, coord, feat, regions)
        sums.add(output)
        single = Sums()
        single.add(output)
        single.flush()
        seen.append({name: value / len(trees) for name, value in single.values.items()})
    sums.flush()
    assert "loss_level_1" in seen[0]
    assert "loss_level_1" not in seen[1]
    assert "loss_level_0" not in seen[1]
    metrics = workload.summarize(sums.values, sums.num_samples)
    assert sums.num_samples == 3
    for name in ("loss_level_0", "loss_level_1", "chance_level_1", "top1_level_1"):
        assert metrics[name] == pytest.approx(seen[0][name], rel=1e-6)
    assert metrics["chance_level_1"] == pytest.approx(np.log(4), rel=1e-6)
    for name in ("region_loss", "point_loss", "feature_std"):
        assert metrics[name] == pytest.approx((2 * seen[0][name] + seen[1][name]) / 3, rel=1e-5)
    assert not any(name.startswith("scenes_level_") for name in metrics)


def test_level_metrics_are_weighted_by_scenes(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config())
    sums = {"loss": 12.0, "loss_level_1": 6.0, "scenes_level_1": 2.0, "loss_level_12": 5.0, "scenes_level_12": 1.0}
    assert workload.summarize(sums, 4) == {"loss": 3.0, "loss_level_1": 3.0, "loss_level_12": 5.0}


@pytest.mark.parametrize(
    ("spread", "rank", "warned"),
    [
        (0.5, 20.0, False),
        (MIN_FEATURE_STD, MIN_EFFECTIVE_RANK, False),
        (MIN_FEATURE_STD - 0.01, 20.0, True),
        (0.5, MIN_EFFECTIVE_RANK - 0.1, True),
    ],
)
def test_a_collapse_triggers_a_warning(tiny_point_config: Make, spread: float, rank: float, warned: bool) -> None:
    text = make_workload(tiny_point_config()).warning({"feature_std": spread, "effective_rank": rank, "loss": 1.0})
    assert bool(text) == warned
    if warned:
        assert (f"deviation {spread:.3f}" in text) == (spread < MIN_FEATURE_STD)
        assert (f"they span {rank:.1f} of 16 dimensions" in text) == (spread >= MIN_FEATURE_STD)
        assert "training.learning_rate" in text


def test_a_collapsed_network_triggers_a_warning_and_a_fresh_one_does_not(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config())

    def warning() -> str:
        with torch.no_grad():
            output = workload.module(*workload.to_device(first_batch(workload), CPU.device, train=True))
        sums = Sums()
        sums.add(output)
        sums.flush()
        return workload.warning(workload.summarize(sums.values, sums.num_samples))

    assert warning() == ""
    last = workload.module.state_dict()["encoder.encoder.backbone.mlp.3.weight"]
    assert last.shape == (16, 16)
    last.zero_()  # every point gets the bias as its features
    assert "collapsing" in warning()


# Names and words


def test_batches_are_named_after_their_scenes(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config())
    keys = [sample.key for sample in workload.manifest.of("train")]
    raw = first_batch(workload)
    assert workload.names(raw, "train") == [keys[index] for index in raw.samples.tolist()]
    assert workload.names(next(workload.loaders["val"].batches(0)), "val") == [workload.manifest.of("val")[0].key]


def test_class_names_come_from_the_configuration_the_rooms_or_the_labels(
    tiny_point_config: Make, scene_folder: Callable[..., Path]
) -> None:
    rooms = make_workload(tiny_point_config(), ())
    assert [rooms.class_name(label) for label in (0, 8, 9)] == ["floor", "sofa", "class 9"]
    named = make_workload(tiny_point_config(data__class_names=["ground", "rest"]), ())
    assert [named.class_name(label) for label in (0, 1, 2)] == ["ground", "rest", "class 2"]
    folder = make_workload(tiny_point_config(data__path=str(scene_folder())), ())
    assert folder.class_name(0) == "class 0"


def test_network_and_data_are_described(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> None:
    workload = make_workload(tiny_point_config(model__aggregation="attention", model__pooling="mean"), ())
    assert workload.model_name == "DBBD, attention aggregation, mean pooling"
    assert workload.data_description == "synthetic furnished rooms (features: normals)"
    root = scene_folder(colors=True)
    workload = make_workload(tiny_point_config(data__path=str(root), data__features=["height", "color"]), ())
    assert workload.data_description == f"scenes of {root} (features: height, color)"
    assert (workload.monitor, workload.sample_unit) == ("loss", "scenes")


# Single scenes


def test_single_scenes_are_complete_in_order_and_labeled(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config(), ())
    scenes = list(workload.single_scenes("train"))
    assert [workload.names(scene, "train") for scene in scenes] == [
        [sample.key] for sample in workload.manifest.of("train")
    ]
    for scene, prepared in zip(scenes, workload.prepared_scenes("train"), strict=True):
        assert scene.regions.point.tolist() == list(range(1000))
        assert scene.segment is not None
        assert len(scene.segment.unique()) > 3
        assert np.array_equal(prepared.coord, scene.coord.numpy())
        assert prepared.tree.num_regions == sum(level.num_regions for level in scene.regions.levels)


def test_only_the_requested_splits_have_loaders_and_only_training_is_shuffled(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config(), ("train", "test"))
    assert set(workload.loaders) == {"train", "test"}
    assert workload.loaders["train"].shuffle
    assert not workload.loaders["test"].shuffle


def test_a_missing_scene_is_reported_when_its_split_is_loaded(
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


def test_the_network_has_the_configured_sizes_and_loss() -> None:
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
        ("loss.symmetric", True),
        ("loss.negatives", "scene"),
        ("loss.level_weights", [5.0, 1.0]),
        ("loss.relative_to_chance", True),
        ("model.relative_propagation", True),
        ("data.views.rotation_degrees", 10.0),
        ("data.views.scale", 0.5),
        ("data.max_depth", 1),
        ("data.min_region_points", 30),
    ],
)
def test_every_setting_changes_the_loss(tiny_point_config: Make, key: str, value: object) -> None:
    losses = []
    for changes in ({}, {key: value}):
        workload = make_workload(tiny_point_config(**changes))
        with torch.no_grad():
            losses.append(
                float(workload.module(*workload.to_device(first_batch(workload), CPU.device, train=True)).loss)
            )
    assert abs(losses[0] - losses[1]) > 1e-4


def test_initial_weights_are_loaded_only_on_request(tiny_point_config: Make, tmp_path: Path) -> None:
    source = make_workload(tiny_point_config(seed=1), ()).module
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    config = tiny_point_config(model__weights=str(tmp_path / "weights.pth"))
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    for pretrained in (True, False):
        workload = DbbdWorkload(
            prepared, manifest, splits=(), pretrained=pretrained, pin_memory=False, progress=Silent()
        )
        own, other = workload.module.state_dict(), source.state_dict()
        assert all(torch.equal(own[name], other[name]) for name in own) == pretrained


def test_initial_weights_of_another_size_are_refused(tiny_point_config: Make, tmp_path: Path) -> None:
    torch.save(make_workload(tiny_point_config(), ()).module.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not match the network") as caught:
        make_workload(tiny_point_config(model__weights=str(tmp_path / "weights.pth"), model__hidden_dim=8))
    assert caught.value.details
