"""Runs with a description loss: what is described, bit-exact resumption, and weights that serve like any others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.dbbd.description import Described
from dbbd_cli.model.dbbd.weights import load_encoder
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import make_network
from dbbd_cli.tasks.segmentation.config import SegmentationConfig
from unit.tasks.dbbd.resuming import check_resumed_run
from unit.tasks.dbbd.test_workload import CPU, first_batch, make_workload

Make = Callable[..., DbbdConfig]
ON: dict[str, Any] = {
    "loss.description_weight": 1.0, "loss.symmetric": True, "data.features": ["geometry", "normals"],
    "data.views.point_dropout": 0.5, "data.views.feature_noise": 0.1, "data.views.flip": True,
}  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_described_is_the_scene_without_augmentation(tiny_point_config: Make, dropout: float) -> None:
    features = ["color", "normals", "geometry", "height"]
    settings = {**ON, "data.features": features, "data.views.point_dropout": dropout}
    workload = make_workload(tiny_point_config(**settings))
    raw = first_batch(workload)
    *_, regions, second, pieces, described = workload.to_device(raw, CPU.device, train=True)
    assert isinstance(described, Described)
    expected = [raw.color / 255.0, raw.normal[:, 2:].abs(), raw.geometry.float(), raw.coord[:, 2:]]
    assert torch.equal(described.features, torch.cat(expected, dim=1))
    assert pieces == []
    assert (second is None) == (described.whole is None) == (dropout == 0)
    if described.whole is not None:
        whole = described.whole.regions
        assert sorted(whole.leaves.index.tolist()) == list(range(2000))
        for view, rows in zip((regions, second.regions), described.whole.rows, strict=True):
            for level, of_view, places in zip(whole.levels, view.levels, rows, strict=True):
                assert torch.equal(level.points.center[places], of_view.points.center)

    # Color, |z| of the normal, neighborhoods, columns and height count equally.
    description = workload.module.description
    assert description is not None
    shares = description.share.view(-1, 8).sum(1)
    assert [float(part.sum()) for part in shares.split([3, 1, 24, 5, 1])] == pytest.approx([0.2] * 5)
    assert workload.module(*workload.to_device(raw, CPU.device, train=True)).loss.isfinite()


def test_pieces_are_fitted_to_the_training_scenes(tiny_point_config: Make) -> None:
    workload = make_workload(tiny_point_config(**{**ON, "data.features": ["height"]}))
    description = workload.module.description
    assert description is not None
    heights = np.concatenate([scene.coord[:, 2] for scene in workload.prepared_scenes("train")])
    assert np.allclose(description.codes.lower[0], np.quantile(heights, np.arange(8) / 8), atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"loss.region_weight": 0, "loss.point_weight": 0, "loss.momentum": 0.9}])
def test_a_resumed_run_is_the_uninterrupted_one(tiny_point_config: Make, changes: dict[str, Any]) -> None:
    settings = {**ON, "training.epochs": 3, "checkpoint.metric": "description_loss", **changes}
    whole = check_resumed_run(tiny_point_config, settings)
    rows = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    assert all(row[split]["description_loss"] > 0 for row in epochs for split in ("train", "val"))
    assert epochs[-1]["train"]["description_loss"] < epochs[0]["train"]["description_loss"]
    assert all(row[split]["region_loss"] > 0 for row in epochs for split in ("train", "val"))


def test_a_run_is_evaluated_and_its_weights_start_others(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(**ON)).run
    report = json.loads(Path(evaluate(run).run, "evaluation.json").read_text())
    assert report["description_loss"] > 0
    weights = load_checkpoint(run / "ckpt.pth")["module"]
    start = {"model.weights": str(run / "ckpt.pth"), "training.learning_rate": 1e-9, "training.min_lr": 0}
    plain = train(tiny_point_config(**start, **{"data.features": ON["data.features"]})).run
    found = load_checkpoint(plain / "ckpt.pth")["module"]
    assert not any(name.startswith("description.") for name in found)
    assert same({name: weights[name] for name in found}, found, exact=False)
    encoder = make_network(tiny_point_config(**ON)).encoder
    load_encoder(encoder, run / "ckpt.pth")
    assert all(torch.equal(value, weights[f"encoder.{name}"]) for name, value in encoder.state_dict().items())
    # The other way round: the heads begin at random.
    train(tiny_point_config(**{**ON, "model.weights": str(plain / "ckpt.pth"), "training.epochs": 1}))


def test_without_it_there_is_none(tiny_point_config: Make) -> None:
    assert make_network(tiny_point_config()).description is None
    workload = make_workload(tiny_point_config())
    assert len(workload.to_device(first_batch(workload), CPU.device, train=True)) == 5


def test_dbbd_plus_has_the_encoder_of_segment_scans() -> None:
    plus, segment = load_config("dbbd_plus"), load_config("segment_scans")
    assert isinstance(plus, DbbdConfig)
    assert isinstance(segment, SegmentationConfig)
    assert plus.model.encoder_sizes == segment.model.encoder_sizes
    assert plus.data.features == segment.data.features
    assert plus.data.preparation == segment.data.preparation
