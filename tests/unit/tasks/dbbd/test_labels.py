"""Labels that mean "ignore" are recognized, reported, and ignored by default or on request."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.core.progress import Silent
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from unit.tasks.dbbd.evaluations import missing, relabel, report_of

Make = Callable[..., DbbdConfig]


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
