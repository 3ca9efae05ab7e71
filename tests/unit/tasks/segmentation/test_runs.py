"""Runs of segmentation: their classes, their start from other weights, and what their evaluation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.runtime import choose_runtime, seed_everything
from dbbd_cli.model.dbbd.segmentation import IGNORED
from dbbd_cli.model.linear_probe import confusion_counts, segmentation_scores
from dbbd_cli.report.scenes.evaluation_scene import read_evaluation_scene
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload, load_module, open_run
from dbbd_cli.services.train import train
from dbbd_cli.tasks import scene_workload
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.registry import get_task
from dbbd_cli.tasks.segmentation.config import SegmentationConfig
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload
from unit.tasks.dbbd.evaluations import relabel

Make = Callable[..., SegmentationConfig]
Folder = Callable[..., Path]


class Warnings(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["module"]
    return found


def encoder_weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights(path).items() if name.startswith("encoder.")}


def workload_of(run: Path, splits: tuple[str, ...] = ()) -> SegmentationWorkload:
    opened = open_run(run, prefer="best_model.pth", overrides=[], progress=Silent())
    workload, _ = build_workload(opened.config, opened.manifest, splits=splits, pretrained=False, progress=Silent())
    load_module(workload, opened)
    assert isinstance(workload, SegmentationWorkload)
    return workload


def built(config: SegmentationConfig) -> SegmentationWorkload:
    prepared, manifest = prepare_run(config, Silent())
    seed_everything(prepared.seed)
    workload, _ = build_workload(prepared, manifest, splits=("train", "val"), pretrained=True, progress=Silent())
    assert isinstance(workload, SegmentationWorkload)
    return workload


# Classes


def test_the_classes_are_the_labels_that_occur_and_the_run_stores_them(
    tiny_segmentation: Make, scene_folder: Folder
) -> None:
    root = scene_folder()
    relabel(root, lambda split, segment: np.where(segment == 1, 41 if split == "test" else 1, 5 * segment))
    progress = Warnings()
    config, _ = prepare_run(tiny_segmentation(data__path=str(root), data__ignore_labels=[10]), progress)
    assert isinstance(config, SegmentationConfig)
    labels = config.data.labels
    assert labels is not None
    assert {0, 1, 41} <= set(labels)
    assert 10 not in labels
    assert labels == sorted(labels)
    assert "no training scene has label 41: the network cannot learn it." in progress.texts


@pytest.mark.parametrize("labels", [None, [0, 1, 2]])
def test_labels_that_cannot_be_used_trigger_a_warning(
    tiny_segmentation: Make, scene_folder: Folder, labels: list[int] | None
) -> None:
    root = scene_folder()
    relabel(root, lambda split, segment: segment + 0.5 if split == "test" else segment)
    progress = Warnings()
    prepare_run(tiny_segmentation(data__path=str(root), data__labels=labels), progress)
    assert any(
        text.startswith("the labels of 1 scene cannot be used and count as missing: test/scene0000_00.pkl")
        for text in progress.texts
    )


def test_points_with_other_labels_are_ignored(tiny_segmentation: Make) -> None:
    workload = built(tiny_segmentation(data__labels=[0, 2, 7]))
    found = workload.classes(torch.tensor([-1, 0, 1, 2, 7, 8], dtype=torch.int32))
    assert found.tolist() == [IGNORED, 0, IGNORED, 1, 2, IGNORED]
    for batch in workload.loaders["train"].batches(1):
        classes = workload.to_device(batch, torch.device("cpu"), train=False)[-1]
        assert (classes[batch.regions.point] != IGNORED).all()  # only labeled points are drawn
        assert len(batch.regions.point) == 256
    every = next(workload.loaders["val"].batches(1))
    assert len(every.regions.point) == every.num_points.sum()


def test_the_weights_of_classes_come_from_all_training_points(tiny_segmentation: Make) -> None:
    workload = built(tiny_segmentation(loss__class_weights="inverse"))
    segment = torch.cat([torch.from_numpy(np.array(scene.segment)) for scene in workload.prepared_scenes("train")])
    expected = [int((segment == label).sum()) for label in workload.labels]
    assert workload.module.class_counts.tolist() == expected


def test_the_network_is_fitted_to_scenes_with_labels(
    tiny_segmentation: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_workload, "_FITTED_SCENES", 2)
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        (tmp_path / "scans" / split).mkdir(parents=True)
        for number in range(count):
            labels = np.arange(500) % 2 if number == count - 1 else np.full(500, -1)
            scan = tmp_path / "scans" / split / f"{number}.npz"
            np.savez(scan, coord=random.uniform(0, 5, (500, 3)), label=labels)
    workload = built(tiny_segmentation(data__path=str(tmp_path / "scans")))
    assert workload.module.class_counts.tolist() == [250, 250]
    assert workload.module.head.codes.width.isfinite().all()
    assert (workload.module.head.codes.deviation > 0.05).any()


def test_scenes_without_labels_are_an_error_that_says_what_is_needed(
    tiny_segmentation: Make, scene_folder: Folder
) -> None:
    root = scene_folder(labels=False)
    with pytest.raises(DataError, match="of the train split have no labels") as caught:
        prepare_run(tiny_segmentation(data__path=str(root)), Silent())
    assert "label for each point" in caught.value.hint


def test_one_class_is_too_few(tiny_segmentation: Make, scene_folder: Folder) -> None:
    root = scene_folder()
    relabel(root, lambda split, segment: np.zeros_like(segment))
    with pytest.raises(DataError, match="1 different labels"):
        prepare_run(tiny_segmentation(data__path=str(root)), Silent())


@pytest.mark.parametrize("labels", [[3], [2, 1], [1, 1]])
def test_labels_are_at_least_two_and_ascending(tiny_segmentation: Make, labels: list[int]) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_segmentation(data__labels=labels)
    assert "at least two labels, ascending" in str(caught.value.details)


# Training


@pytest.fixture
def pretrained(tiny_point_config: Callable[..., DbbdConfig]) -> Path:
    """A run of DBBD whose encoder has other sizes than the configuration of segmentation."""
    config = tiny_point_config(training__epochs=1, data__features=["height", "normals"], model__hidden_dim=12)
    return train(config).run


def test_a_run_starts_from_the_encoder_of_a_pretrained_one(tiny_segmentation: Make, pretrained: Path) -> None:
    config, _ = prepare_run(tiny_segmentation(model__weights=str(pretrained)), Silent())
    assert isinstance(config, SegmentationConfig)
    assert config.model.weights == str(pretrained / "best_model.pth")
    assert config.model.hidden_dim == 12
    assert config.data.features == ["height", "normals"]
    assert config.data.head_features == ["geometry"]
    workload = built(tiny_segmentation(model__weights=str(pretrained)))
    state = workload.module.state_dict()
    assert all(
        torch.equal(state[name], value) for name, value in encoder_weights(pretrained / "best_model.pth").items()
    )


def test_what_the_head_sees_follows_from_the_weights_unless_it_is_set(
    tiny_segmentation: Make, pretrained: Path
) -> None:
    def seen(run: Path, **changes: object) -> tuple[str, bool]:
        config, _ = prepare_run(tiny_segmentation(model__weights=str(run), **changes), Silent())
        assert isinstance(config, SegmentationConfig)
        return config.model.branches, config.model.region_means

    assert seen(pretrained) == ("both", True)
    own = {"model__branches": "g2l", "model__region_means": False}
    assert seen(pretrained, **own) == ("g2l", False)
    tuned = train(tiny_segmentation(model__weights=str(pretrained), training__epochs=1, **own)).run
    assert seen(tuned) == ("g2l", False)
    assert seen(tuned, model__branches="both") == ("both", False)


def test_the_linear_classifier_is_fitted_to_what_training_does_not_change(
    tiny_segmentation: Make, pretrained: Path
) -> None:
    given = {"model__weights": str(pretrained), "training__epochs": 1}
    codes = built(tiny_segmentation(**given)).module.head.codes.num_codes
    for freeze, channels in (("none", codes), ("encoder", codes + 2 * 16)):
        linear = built(tiny_segmentation(training__freeze=freeze, **given)).module.linear
        assert linear is not None
        assert linear.of_regions.shape[2] == channels
        assert all(bool(buffer.any()) for buffer in linear.buffers())
        run = train(tiny_segmentation(training__freeze=freeze, **given)).run
        saved = weights(run / "ckpt.pth")
        assert all(torch.equal(value, saved[f"linear.{name}"]) for name, value in linear.state_dict().items())
    assert built(tiny_segmentation(model__linear_share=0.0, **given)).module.linear is None


def test_settings_must_not_contradict_the_weights(tiny_segmentation: Make, pretrained: Path) -> None:
    with pytest.raises(ConfigError, match="settings contradict") as caught:
        prepare_run(
            tiny_segmentation(model__weights=str(pretrained), model__output_dim=24, data__features=["color"]), Silent()
        )
    assert any(detail.startswith("model.output_dim is 24, but 16") for detail in caught.value.details)
    assert any("data.features" in detail for detail in caught.value.details)


def test_weights_without_an_encoder_are_refused(tiny_segmentation: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"layer.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="contains no encoder"):
        prepare_run(tiny_segmentation(model__weights=str(path)), Silent())


def test_a_frozen_encoder_keeps_its_weights_and_the_head_learns(tiny_segmentation: Make, pretrained: Path) -> None:
    run = train(tiny_segmentation(model__weights=str(pretrained), training__freeze="encoder")).run
    before, after = encoder_weights(pretrained / "best_model.pth"), encoder_weights(run / "ckpt.pth")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = train(tiny_segmentation(model__weights=str(run))).run  # a run of segmentation has an encoder, too
    assert not all(torch.equal(value, before[name]) for name, value in encoder_weights(again / "ckpt.pth").items())


def test_the_encoder_may_learn_more_slowly(tiny_segmentation: Make) -> None:
    still = train(tiny_segmentation(training__encoder_lr_factor=0.0)).run
    moving = train(tiny_segmentation(training__encoder_lr_factor=0.5)).run
    start = built(tiny_segmentation()).module.state_dict()
    for run, same in ((still, True), (moving, False)):
        found = encoder_weights(run / "ckpt.pth")
        assert all(torch.equal(found[name], start[name]) for name in found) == same
    groups = torch.load(moving / "ckpt.pth", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr_factor"] for group in groups] == [1.0, 0.5]


@pytest.mark.parametrize("branches", ["both", "g2l"])
def test_every_choice_of_branches_and_augmentation_trains(tiny_segmentation: Make, branches: str) -> None:
    augmentation = {"jitter": 0.01, "point_dropout": 0.2, "color_jitter": 0.3}
    settings: dict[str, Any] = {f"data__augment__{key}": value for key, value in augmentation.items()}
    result = train(tiny_segmentation(model__branches=branches, data__head_features=["color", "geometry"], **settings))
    assert 0 <= result.best["miou"] <= 1


# Evaluation


def test_the_report_is_exact_and_has_all_its_parts(tiny_segmentation: Make) -> None:
    pytest.importorskip("sklearn")
    run = train(tiny_segmentation()).run
    result = evaluate(run)
    report = result.report
    workload = workload_of(run, ("test",))
    confusion = torch.zeros(len(workload.labels), len(workload.labels), dtype=torch.int64)
    for scene in workload.single_scenes("test"):
        shares = workload.shares(scene, choose_runtime("cpu", "fp32"))
        assert scene.segment is not None
        classes = workload.classes(scene.segment)
        known = classes != IGNORED
        confusion += confusion_counts(shares[known].argmax(1), classes[known], len(workload.labels))
    assert report["confusion_matrix"] == confusion.tolist()
    scores = segmentation_scores(confusion)
    assert report["miou"] == pytest.approx(scores.miou)
    assert report["num_points"] == 1000 * len(workload.manifest.of("test"))
    assert report["ignored_points"] == report["num_points"] - int(confusion.sum())
    frequent, forest = report["baselines"]
    assert frequent["name"] == "most frequent class"
    assert frequent["overall_accuracy"] == pytest.approx(
        int(confusion.sum(1)[int(workload.module.class_counts.argmax())]) / int(confusion.sum())
    )
    assert forest["overall_accuracy"] > frequent["overall_accuracy"]
    drawn = {path.name for path in result.files}
    assert {"class_iou.png", "confusion_matrix.png", "scene_segmentation.png"} <= drawn
    scene = read_evaluation_scene((run / "evaluation_scene.npz").read_bytes())
    assert set(np.unique(scene["prediction"])) <= set(range(len(workload.labels)))
    names = [section.title for section in get_task("segmentation").tables(report)]
    assert names[0] == "Metrics"


def test_intervals_contain_the_score_and_widen_with_fewer_scenes() -> None:
    from dbbd_cli.tasks.segmentation.evaluate import _intervals

    generator = np.random.default_rng(0)
    confusions = generator.integers(0, 50, (30, 3, 3)) + np.eye(3, dtype=np.int64) * generator.integers(
        0, 200, (30, 1, 1)
    )
    scores = segmentation_scores(torch.from_numpy(confusions.sum(0)))
    many, few = _intervals(confusions, 1), _intervals(confusions[:5], 1)
    for value, wide, narrow in zip([scores.miou, *scores.per_class_iou], few, many, strict=True):
        assert narrow is not None
        assert wide is not None
        assert value is not None
        assert narrow[0] < value < narrow[1]
        assert wide[1] - wide[0] > narrow[1] - narrow[0]
    assert _intervals(confusions[:1], 1) == [None] * 4


def test_a_run_is_evaluated_on_another_folder_with_its_own_classes(
    tiny_segmentation: Make, scene_folder: Folder
) -> None:
    run = train(tiny_segmentation(training__epochs=1)).run
    root = scene_folder()
    relabel(root, lambda split, segment: np.where(segment == 0, 77, segment))
    report = evaluate(run, data=root, plots=False).report
    assert report["num_samples"] == 7
    assert report["classes"][0] == "floor"
    assert report["class_scores"][0]["points"] == 0
    assert report["class_scores"][0]["iou"] is None
