"""The report of a run is complete, reproducible, and says why parts of it are missing."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.linear_probe import confusion_counts, segmentation_scores
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd import probe as point_probe
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload

Make = Callable[..., DbbdConfig]
PROBES = ["pretrained", "random encoder", "raw features"]


def report_of(run: Path, **options: Any) -> dict[str, Any]:
    report: dict[str, Any] = evaluate(run, plots=False, **options).report
    return report


def relabel(root: Path, change: Callable[[str, np.ndarray], np.ndarray | None]) -> None:
    for path in root.rglob("*.pkl"):
        content = pickle.loads(path.read_bytes())
        content["segment20"] = change(path.parent.name, content["segment20"])
        path.write_bytes(pickle.dumps(content))


def test_the_report_is_complete_and_strict_json(tiny_point_config: Make, tmp_path: Path) -> None:
    run = train(tiny_point_config()).run
    result = evaluate(run, out=tmp_path / "out")
    names = {path.name for path in result.files}
    figures = {"level_losses.png", "probe.png", "scene_features.png", "region_tree.png"}
    assert names == {"evaluation.json", "evaluation_scene.npz", *figures}
    assert all(path.parent == tmp_path / "out" and path.stat().st_size > 0 for path in result.files)
    text = (tmp_path / "out" / "evaluation.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert report == result.report
    assert (report["task"], report["split"], report["num_samples"]) == ("dbbd", "test", 1)
    assert report["synthetic"] is True
    assert report["checkpoint"] == "best_model.pth"
    assert report["epoch"] == len(load_checkpoint(run / "best_model.pth")["state"]["history"])
    manifest = Manifest.load(run / "splits.json")
    assert report["scene"]["name"] == manifest.of("test")[0].key
    with np.load(tmp_path / "out" / "evaluation_scene.npz") as scene:
        assert scene["coord"].shape == (1000, 3)
        assert scene["region"].shape == (3, 1000)
        assert scene["segment"].max() == len(report["scene"]["classes"]) - 1
    for kind in ("samples_per_second", "points_per_second", "parameters", "peak_memory_mb"):
        assert report["efficiency"][kind] > 0
    ratio = report["efficiency"]["points_per_second"] / report["efficiency"]["samples_per_second"]
    assert ratio == pytest.approx(1000)


def test_losses_come_with_chance_levels(tiny_point_config: Make) -> None:
    run = train(tiny_point_config()).run
    report = report_of(run)
    rows = {row["name"]: row for row in report["contrast"]}
    # A single scene: its root has no other to be compared with.
    assert list(rows) == ["level 1", "level 2", "points"]
    with np.load(run / "evaluation_scene.npz") as scene:
        regions = [len(np.unique(level)) for level in scene["region"]]
        below = scene["region"][2]
    assert rows["level 1"]["rows"] == pytest.approx(regions[1], rel=1e-5)
    assert rows["level 2"]["rows"] <= len(np.unique(below)) + 1e-3
    assert rows["points"]["rows"] == pytest.approx(64, rel=1e-5)
    for row in rows.values():
        assert row["chance"] == pytest.approx(np.log(row["rows"]), rel=1e-5)
        assert 0 <= row["top1"] <= 1
    mean = np.mean([rows["level 1"]["loss"], rows["level 2"]["loss"]])
    assert report["region_loss"] == pytest.approx(mean, rel=1e-5)
    assert report["loss"] == pytest.approx(report["region_loss"] + 0.5 * report["point_loss"], rel=1e-5)


def test_another_split_has_its_own_file_and_reproduces_the_logged_loss(tiny_point_config: Make) -> None:
    run = train(tiny_point_config()).run
    test_report = report_of(run)
    report = report_of(run, split="val")
    assert json.loads((run / "evaluation.json").read_text()) == test_report
    assert json.loads((run / "evaluation-val.json").read_text()) == report
    assert (run / "evaluation_scene-val.npz").exists()
    logged = load_checkpoint(run / "best_model.pth")["state"]["history"][-1]["val"]
    assert report["loss"] == logged["loss"]
    rows = {row["name"]: row for row in report["contrast"]}
    assert rows["points"]["top1"] == logged["point_top1"]
    assert rows["level 2"]["loss"] == logged["loss_level_2"]
    assert report["probe"] is not None


def test_the_pretrained_probe_is_compared_with_random_and_raw_ones(tiny_point_config: Make) -> None:
    run = train(tiny_point_config()).run
    probe = report_of(run)["probe"]
    assert [row["name"] for row in probe["features"]] == PROBES
    assert [row["dim"] for row in probe["features"]] == [16, 16, 6]  # raw: coordinates and normals
    assert (probe["train_scenes"], probe["test_scenes"]) == (6, 1)
    assert set(probe["classes"]) <= {"floor", "wall", "ceiling", "table", "chair", "shelf", "lamp", "box", "sofa"}
    for row in probe["features"]:
        assert len(row["per_class_iou"]) == len(probe["classes"])
        assert 0 < row["miou"] < row["overall_accuracy"] <= 1
    again = report_of(run)["probe"]
    assert again == probe  # to the last digit


def test_probes_equal_those_on_features_computed_by_hand(tiny_point_config: Make) -> None:
    config = tiny_point_config(data__features=["normals", "height"], run__precision="fp32")
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
        fitted = point_probe.fit_probe(
            parts["train"][train_rows], target, len(known), weight_decay=point_probe.WEIGHT_DECAY
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


@pytest.mark.parametrize(("limit", "most"), [("PROBE_POINTS", 600), ("POINTS_PER_SCENE", 100)])
def test_the_points_of_a_probe_are_limited_and_reproducible(
    tiny_point_config: Make, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    monkeypatch.setattr(point_probe, limit, most)
    one, two = report_of(run)["probe"], report_of(run)["probe"]
    assert one["train_points"] == 600  # 100 of each of 6 scenes
    assert one == two


# Without labels


def missing(report: dict[str, Any]) -> str:
    assert report["probe"] is None
    text: str = report["probe_missing"]
    return text


@pytest.fixture
def folder_run(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> Callable[..., Path]:
    def make(change: Callable[[str, np.ndarray], np.ndarray | None], splits: dict[str, int] | None = None) -> Path:
        root = scene_folder(splits)
        relabel(root, change)
        return train(tiny_point_config(data__path=str(root), training__epochs=1)).run

    return make


def test_without_labels_there_is_no_probe_but_a_reason(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: None)
    result = evaluate(run)
    assert missing(dict(result.report)) == "the scenes of the test split have no labels"
    names = {path.name for path in result.files}
    assert "level_losses.png" in names
    assert "probe.png" not in names
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
        (lambda split, labels: np.arange(len(labels)), "1,000 different labels, too many for classes"),
    ],
    ids=["unknown", "one class", "not in test", "not in train", "too many"],
)
def test_unsuitable_labels_are_reported(folder_run: Callable[..., Path], change: Any, told: str) -> None:
    assert told in missing(report_of(folder_run(change)))


class Recorder(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def some_ignored(kind: str, label: int = 255) -> Callable[[str, np.ndarray], np.ndarray]:
    def change(split: str, labels: np.ndarray) -> np.ndarray:
        some = np.where(labels < 0, 0, np.minimum(labels, 2))
        some[::4] = label
        return some.astype(kind)

    return change


def evaluated(run: Path, ignore: list[int] | None = None) -> tuple[dict[str, Any], list[str]]:
    recorder = Recorder()
    overrides = [] if ignore is None else [Override("data.ignore_labels", ignore, "--set")]
    return report_of(run, overrides=overrides, progress=recorder), recorder.warnings


THREE = ["class 0", "class 1", "class 2"]


def test_the_largest_label_of_an_unsigned_type_is_not_a_class_by_default(
    folder_run: Callable[..., Path],
) -> None:
    run = folder_run(some_ignored("u1"))
    report, warnings = evaluated(run)
    assert report["probe"]["classes"] == report["scene"]["classes"] == THREE
    assert report["ignored_labels"] == [{"label": 255, "points": 250}]
    assert report["probe"]["test_points"] == 750
    assert warnings == []
    with np.load(run / "evaluation_scene.npz") as scene:
        assert (scene["segment"][::4] == -1).all()
    report, warnings = evaluated(run, [])
    assert report["probe"]["classes"] == [*THREE, "class 255"]
    assert report["ignored_labels"] == []
    assert warnings == []
    report, warnings = evaluated(run, [0])  # exactly the listed labels are ignored
    assert report["probe"]["classes"] == ["class 1", "class 2", "class 255"]
    assert [row["label"] for row in report["ignored_labels"]] == [0]
    assert "label 255 counts as a class" in warnings[0]
    assert "--set data.ignore_labels=[0,255]; if not, name all classes" in warnings[0]


@pytest.mark.parametrize("kind", ["i8", "u2", "f4"])
def test_a_label_that_looks_like_ignore_triggers_a_warning_and_can_be_ignored(
    folder_run: Callable[..., Path], kind: str
) -> None:
    run = folder_run(some_ignored(kind))
    report, (warning,) = evaluated(run)
    cache = sorted(path.name for path in Path(os.environ["DBBD_CACHE_DIR"]).glob("*.arrays"))
    assert report["probe"]["classes"] == [*THREE, "class 255"]
    assert "--set data.ignore_labels=[255]" in warning
    report, warnings = evaluated(run, [255])
    assert report["probe"]["classes"] == THREE
    assert report["ignored_labels"] == [{"label": 255, "points": 250}]
    assert warnings == []
    # No scene was prepared again.
    assert sorted(path.name for path in Path(os.environ["DBBD_CACHE_DIR"]).glob("*.arrays")) == cache


def test_several_labels_that_look_like_ignore_are_reported_together(folder_run: Callable[..., Path]) -> None:
    _, (warning,) = evaluated(folder_run(lambda split, labels: np.choose(labels % 3, [254, 255, 1])))
    assert warning.startswith("labels 254 and 255 count as classes, but look like 'ignore'. If they are, use")
    assert "--set data.ignore_labels=[254,255]; if not, set it to [] to hide" in warning


def test_negative_labels_are_reported(folder_run: Callable[..., Path]) -> None:
    report, warnings = evaluated(folder_run(some_ignored("i8", -100)))
    assert report["probe"]["classes"] == THREE
    assert report["ignored_labels"] == [{"label": None, "points": 250}]
    assert warnings == []


def test_a_named_label_is_always_a_class(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> None:
    root = scene_folder()
    relabel(root, some_ignored("u1"))
    names = [f"kind {number}" for number in range(256)]
    run = train(tiny_point_config(data__path=str(root), data__class_names=names, training__epochs=1)).run
    report, warnings = evaluated(run)
    assert report["probe"]["classes"][-1] == "kind 255"
    assert warnings == []


def test_unusable_labels_are_reported_with_their_scene(folder_run: Callable[..., Path]) -> None:
    report, (warning,) = evaluated(
        folder_run(lambda split, labels: labels + (0.5 if split == "test" else 0.0)),
    )
    assert missing(report).startswith("the scenes of the test split have no labels (test/")
    assert "cannot be used and count as missing: test/" in warning
    assert "its labels are not integers" in warning


def test_only_ignored_labels_are_reported_as_such(folder_run: Callable[..., Path]) -> None:
    report, _ = evaluated(folder_run(lambda split, labels: np.minimum(np.maximum(labels, 0), 1)), [0, 1])
    assert missing(report) == "the scenes of the test split have no labels that are not ignored"


def test_only_ignored_labels_in_training_are_reported_as_such(folder_run: Callable[..., Path]) -> None:
    report, _ = evaluated(folder_run(lambda split, labels: np.full_like(labels, split == "test")), [0])
    assert missing(report) == "the training scenes have no labels that are not ignored"


def test_classes_of_only_one_split_are_counted(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: np.where(labels == 0, 40 if split == "test" else 7, np.minimum(labels, 1)))
    probe = report_of(run)["probe"]
    assert probe["classes"] == ["class 1", "class 7", "class 40"]


def test_the_training_split_has_no_probe(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    report = report_of(run, split="train")
    assert "trained on the training split" in missing(report)
    assert report["num_samples"] == 6


def test_a_run_without_a_test_split_is_refused(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: labels, {"train": 2, "val": 2})
    with pytest.raises(DataError, match="the run has no test split") as caught:
        evaluate(run)
    assert "--split" in caught.value.hint
    assert report_of(run, split="val")["num_samples"] == 2


def test_a_run_accepts_no_other_configuration(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="a run has a configuration of its own"):
        evaluate(run, config="smoke_dbbd")
    with pytest.raises(ConfigError, match="is not a split"):
        evaluate(run, split="holdout")


def test_class_names_can_be_set_for_an_evaluation(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: np.minimum(labels, 1))
    names = [Override("data.class_names", ["ground", "rest"], "--set")]
    assert report_of(run, overrides=names)["probe"]["classes"] == ["ground", "rest"]


def test_evaluation_does_not_change_the_run(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    report_of(run)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before
