"""What features encode of the place of a point is measured with and without labels, and said in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd import encoded
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from unit.tasks.dbbd.evaluations import report_of

Make = Callable[..., DbbdConfig]


def test_the_place_can_be_read_from_the_input_but_not_from_normals_alone(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    found = report_of(run)["encoded"]
    assert found["targets"] == ["height", "normal", "position"]
    assert (found["train_scenes"], found["test_scenes"]) == (6, 1)
    values = {row["name"]: dict(zip(found["targets"], row["r2"], strict=True)) for row in found["features"]}
    assert list(values) == ["pretrained", "random encoder", "raw features"]
    # Coordinates are among the raw features; |z| is not linear in z.
    assert values["raw features"]["height"] > 0.99
    assert values["raw features"]["position"] > 0.99
    assert values["raw features"]["normal"] < 0.5
    assert "The position of a point is" in found["conclusion"]
    assert report_of(run)["encoded"] == found


def test_it_needs_no_labels(folder_run: Callable[..., Path]) -> None:
    report = report_of(folder_run(lambda split, labels: None))
    assert report["probe"] is None
    assert report["label_efficiency"] is None
    assert report["encoded_missing"] == ""
    assert len(report["encoded"]["features"]) == 3
    assert report["encoded"]["train_scenes"] == 4


def test_it_is_fitted_on_evenly_spaced_scenes(tiny_point_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    monkeypatch.setattr("dbbd_cli.tasks.dbbd.probe.MAX_TRAINING_SCENES", 3)
    assert report_of(run)["encoded"]["train_scenes"] == 3


def test_the_training_split_is_not_scored(tiny_point_config: Make) -> None:
    report = report_of(train(tiny_point_config(training__epochs=1)).run, split="train")
    assert report["encoded"] is None
    assert "trained on the training split" in report["encoded_missing"]


@pytest.mark.parametrize(
    ("pretrained", "random", "shortcut"),
    [(0.9, 0.6, True), (0.62, 0.6, False), (0.1, 0.6, False), (math.nan, 0.6, None)],
)
def test_the_verdict_compares_with_a_random_encoder(pretrained: float, random: float, shortcut: bool | None) -> None:
    verdict = encoded._verdict(pretrained, random)
    assert verdict["shortcut"] is shortcut
    assert ("where a point is" in verdict["conclusion"]) is bool(shortcut)
