"""Linear probes compare pretrained with random and raw features, reproducibly, or say why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.config.load import Override
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.linear_probe import confusion_counts, segmentation_scores
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd import label_efficiency
from dbbd_cli.tasks.dbbd import probe as point_probe
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from unit.tasks.dbbd.evaluations import missing, report_of

Make = Callable[..., DbbdConfig]
PROBES = ["pretrained", "random encoder", "raw features"]


def test_the_pretrained_probe_is_compared_with_random_and_raw_ones(tiny_point_config: Make) -> None:
    run = train(tiny_point_config()).run
    probe = report_of(run)["probe"]
    assert [row["name"] for row in probe["features"]] == PROBES
    assert [row["dim"] for row in probe["features"]] == [80, 80, 6]  # 16 for the leaf and each of 2 levels twice
    assert (probe["train_scenes"], probe["test_scenes"]) == (6, 1)
    assert set(probe["classes"]) <= {"floor", "wall", "ceiling", "table", "chair", "shelf", "lamp", "box", "sofa"}
    for row in probe["features"]:
        assert len(row["per_class_iou"]) == len(probe["classes"])
        assert 0 < row["miou"] < row["overall_accuracy"] <= 1
    again = report_of(run)["probe"]
    assert again == probe  # to the last digit


def test_probes_equal_those_on_features_computed_by_hand(tiny_point_config: Make) -> None:
    config = tiny_point_config(data__features=["normals", "height"], run__precision="fp32", probe__features="leaf")
    run = train(config).run
    probe = report_of(run)["probe"]
    task = DbbdWorkload(
        config, Manifest.load(run / "splits.json"), splits=(), pretrained=False, pin_memory=False, progress=Silent()
    )
    task.module.load_state_dict(load_checkpoint(run / "best_model.pth")["module"])

    def raw(scene: Any) -> torch.Tensor:
        return torch.cat([scene.normal, scene.coord[:, 2:]], dim=1)

    def pretrained(scene: Any) -> torch.Tensor:
        with torch.no_grad():
            return task.module.encoder.global_to_local(scene.coord, raw(scene), scene.regions).points

    scenes = {split: list(task.single_scenes(split)) for split in ("train", "test")}
    labels = {split: torch.cat([scene.segment for scene in scenes[split]]) for split in scenes}
    known = sorted({int(label) for found in labels.values() for label in found.unique() if label >= 0})
    assert probe["train_points"] == int((labels["train"] >= 0).sum())
    assert probe["test_points"] == int((labels["test"] >= 0).sum())
    assert probe["classes"] == [task.class_name(label) for label in known]

    def raw_input(scene: Any) -> torch.Tensor:
        return torch.cat([scene.coord, raw(scene)], dim=1)

    for name, features in (("pretrained", pretrained), ("raw features", raw_input)):
        parts = {split: torch.cat([features(scene) for scene in scenes[split]]) for split in scenes}
        train_rows, test_rows = labels["train"] >= 0, labels["test"] >= 0
        target = torch.tensor([known.index(int(label)) for label in labels["train"][train_rows]])
        truth = torch.tensor([known.index(int(label)) for label in labels["test"][test_rows]])
        fitted = label_efficiency.fit_probe(
            parts["train"][train_rows], target, len(known), weight_decay=label_efficiency.WEIGHT_DECAY
        )
        confusion = confusion_counts(fitted.predict(parts["test"][test_rows]), truth, len(known))
        (row,) = [row for row in probe["features"] if row["name"] == name]
        scores = segmentation_scores(confusion)
        # Here the batches differ, and the last digits of fp32 decide if the two best classes of a point are nearly
        # tied: for 1 in 200 points at most.
        flipped = math.ceil(0.005 * len(truth))
        assert row["overall_accuracy"] == pytest.approx(scores.overall_accuracy, abs=flipped / len(truth))
        # A flipped point can change the intersection of a class by 1, and its union by 1.
        bounds = [min(1.0, 2 * flipped / max(1, int((truth == place).sum()))) for place in range(len(known))]
        for found, wanted, bound in zip(row["per_class_iou"], scores.per_class_iou, bounds, strict=True):
            assert found == (None if wanted is None else pytest.approx(wanted, abs=bound))
        assert row["miou"] == pytest.approx(scores.miou, abs=sum(bounds) / len(bounds))


def test_the_random_encoder_is_that_of_epoch_0(tiny_point_config: Make) -> None:
    """A run whose weights do not move has two equal probes."""
    still = {"training.learning_rate": 1e-30, "training.min_lr": 0.0, "training.weight_decay": 0.0}
    probe = report_of(train(tiny_point_config(**still, **{"training.epochs": 1})).run)["probe"]
    pretrained, random, raw = probe["features"]
    assert {**pretrained, "name": ""} == {**random, "name": ""}
    assert raw["dim"] != random["dim"]
    probe = report_of(train(tiny_point_config(training__learning_rate=0.01)).run)["probe"]
    assert {**probe["features"][0], "name": ""} != {**probe["features"][1], "name": ""}
    assert probe["features"][1] == random


@pytest.mark.parametrize(
    ("limit", "most"), [("PROBE_POINTS", 600), ("POINTS_PER_SCENE", 100), ("_MAX_VALUES", 600 * 80)]
)
def test_the_points_of_a_probe_are_limited_and_reproducible(
    tiny_point_config: Make, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    monkeypatch.setattr(point_probe, limit, most)
    one, two = report_of(run)["probe"], report_of(run)["probe"]
    assert one["train_points"] == 600  # 100 of each of 6 scenes
    assert one == two


def test_without_labels_there_is_no_probe_but_a_reason(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: None)
    result = evaluate(run)
    assert missing(dict(result.report)) == "the scenes of the test split have no labels"
    names = {path.name for path in result.files}
    assert "level_losses.png" in names
    assert names.isdisjoint({"probe.png", "label_efficiency.png"})
    assert result.report["scene"]["classes"] == []  # type: ignore[index]
    with np.load(run / "evaluation_scene.npz") as scene:
        assert "segment" not in scene.files


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda split, labels: labels * 0 - 1, "the scenes of the test split have no labels"),
        (lambda split, labels: labels * 0 + 3, "the training scenes have only one class"),
        (lambda split, labels: labels if split == "train" else None, "the scenes of the test split have no labels"),
        (lambda split, labels: None if split == "train" else labels, "the training scenes have no labels"),
        (
            lambda split, labels: labels % 2 + (10 if split == "train" else 20),
            "no class of the test scenes occurs in the training scenes",
        ),
        (lambda split, labels: np.arange(len(labels)), "1,000 different labels, too many for classes"),
    ],
    ids=["unknown", "one class", "not in test", "not in train", "none in common", "too many"],
)
def test_unsuitable_labels_are_reported(folder_run: Callable[..., Path], change: Any, told: str) -> None:
    assert told in missing(report_of(folder_run(change)))


def test_classes_of_only_one_split_are_counted(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: np.where(labels == 0, 40 if split == "test" else 7, np.minimum(labels, 1)))
    probe = report_of(run)["probe"]
    assert probe["classes"] == ["class 1", "class 7", "class 40"]


def test_the_training_split_has_no_probe(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    report = report_of(run, split="train")
    assert "trained on the training split" in missing(report)
    assert report["num_samples"] == 6


def test_missing_training_scenes_leave_out_the_probe(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = scene_folder()
    run = train(tiny_point_config(data__path=str(root), training__epochs=1)).run
    (root / "train" / "scene0000_00.pkl").unlink()
    reason = missing(report_of(run, overrides=[Override("data.cache_dir", str(tmp_path / "empty"), "--set")]))
    assert reason.startswith("the training scenes cannot be used: ")
    assert "scene0000_00.pkl cannot be opened" in reason
