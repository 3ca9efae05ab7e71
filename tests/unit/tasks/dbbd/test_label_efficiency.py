"""Label efficiency: which scenes are labeled, which points count, and what is reported of all draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.config.load import Override
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.model.linear_probe import LinearProbe
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd import geometry_forest, label_efficiency
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.label_efficiency import Draw, LabeledPoints, choose_points, curve, draw_scenes, fit_draws
from dbbd_cli.tasks.forest_baseline import NO_FOREST
from unit.tasks.dbbd.evaluations import report_of

Make = Callable[..., DbbdConfig]
KINDS = ["pretrained", "random encoder", "raw features", "random forest"]


def test_few_scenes_are_drawn_several_times_and_all_of_them_once() -> None:
    labeled = [0, 2, 3, 5, 7, 8]
    draws = draw_scenes(labeled, 9, [3, 1, 6, 20, 3], 4, seed=1)
    assert [draw.size for draw in draws] == [1] * 4 + [3] * 4 + [6]
    assert all(
        len(set(draw.scenes.tolist())) == draw.size and set(draw.scenes.tolist()) <= set(labeled) for draw in draws
    )
    assert draws[-1].scenes.tolist() == labeled
    # A larger number adds scenes to those of a smaller one.
    assert all(set(one.scenes) < set(three.scenes) for one, three in zip(draws[:4], draws[4:8], strict=True))
    assert len({tuple(draw.scenes.tolist()) for draw in draws[4:8]}) > 1
    again = draw_scenes(labeled, 9, [1, 3], 4, seed=1)
    assert [draw.scenes.tolist() for draw in again] == [draw.scenes.tolist() for draw in draws]
    other = draw_scenes(labeled, 9, [1, 3], 4, seed=2)
    assert [draw.scenes.tolist() for draw in other] != [draw.scenes.tolist() for draw in draws]


def test_every_scene_is_drawn_equally_often() -> None:
    draws = draw_scenes(range(5), 5, [2], 2000, seed=3)
    counts = np.bincount(np.concatenate([draw.scenes for draw in draws[:-1]]), minlength=5)
    assert counts == pytest.approx(800, abs=5 * math.sqrt(2000 * 0.4 * 0.6))


def test_the_chosen_points_have_labels_and_are_the_same_every_time() -> None:
    segment = np.where(np.arange(1000) % 3 == 0, IGNORE, 1)
    chosen = choose_points(segment, 50, 4, seed=0)
    assert len(chosen) == 50
    assert (np.diff(chosen) > 0).all()
    assert (segment[chosen] != IGNORE).all()
    assert chosen.tolist() == choose_points(segment, 50, 4, seed=0).tolist()
    assert chosen.tolist() != choose_points(segment, 50, 5, seed=0).tolist()
    assert set(chosen) <= set(choose_points(segment, 100, 4, seed=0))
    assert choose_points(segment, 5000, 4, seed=0).tolist() == np.flatnonzero(segment != IGNORE).tolist()


def test_a_probe_sees_only_the_points_of_its_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(features: torch.Tensor, classes: torch.Tensor, num_classes: int, **_: Any) -> LinearProbe:
        seen.append((features[:, 0].tolist(), classes.tolist(), num_classes))
        return LinearProbe(*torch.zeros(4, 3))

    monkeypatch.setattr(label_efficiency, "fit_probe", fit)
    features = torch.arange(6.0)[:, None]
    points = LabeledPoints({}, torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 3, 3, 4, 4]))
    fit_draws(features, points, [Draw(1, np.array([3])), Draw(2, np.array([4, 0]))], 3, lambda: None)
    assert seen == [([2.0, 3.0], [2, 0], 3), ([0.0, 1.0, 4.0, 5.0], [0, 1, 1, 2], 3)]


def test_a_curve_has_the_mean_and_the_spread_of_its_draws() -> None:
    draws = [Draw(1, np.array([0])), Draw(1, np.array([1])), Draw(2, np.array([0, 1]))]
    confusions = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[2, 0], [0, 2]]])
    few, everything = curve("raw", draws, confusions)["points"]
    assert few == {
        "scenes": 1, "draws": 2, "miou": 0.5, "std": pytest.approx(math.sqrt(0.5)), "low": 0.0, "high": 1.0,
    }  # fmt: skip
    assert everything == {"scenes": 2, "draws": 1, "miou": 1.0, "std": None, "low": 1.0, "high": 1.0}


def test_all_kinds_of_features_are_measured_at_all_numbers_of_scenes(tiny_point_config: Make) -> None:
    pytest.importorskip("sklearn")
    run = train(tiny_point_config(training__epochs=1, probe__scenes=[2, 4, 30], probe__draws=2)).run
    report = report_of(run)
    found = report["label_efficiency"]
    assert (found["train_scenes"], found["test_scenes"], found["forest_missing"]) == (6, 1, "")
    assert [row["name"] for row in found["curves"]] == KINDS
    for row in found["curves"]:
        assert [(point["scenes"], point["draws"]) for point in row["points"]] == [(2, 2), (4, 2), (6, 1)]
        for point in row["points"]:
            assert 0 <= point["low"] <= point["miou"] <= point["high"] <= 1
    # With all scenes, it is the probe.
    for row, probe in zip(found["curves"], report["probe"]["features"], strict=False):
        assert row["points"][-1]["miou"] == probe["miou"]
    assert report_of(run)["label_efficiency"] == found
    more = report_of(run, overrides=[Override("probe.draws", 3, "--set")])["label_efficiency"]["curves"]
    assert [point["draws"] for point in more[0]["points"]] == [3, 3, 1]


def test_the_forest_reads_geometry_whatever_the_network_reads(tiny_point_config: Make) -> None:
    pytest.importorskip("sklearn")
    settings = {"training.epochs": 1, "probe.scenes": [2]}
    forests = [
        report_of(train(tiny_point_config(**settings, data__features=features)).run)["label_efficiency"]["curves"][-1]
        for features in (["normals"], ["geometry"])
    ]
    assert forests[0]["name"] == "random forest"
    assert forests[0] == forests[1]


def test_without_scikit_learn_the_forest_is_missing_with_a_reason(
    tiny_point_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry_forest, "make_forest", lambda seed: None)
    run = train(tiny_point_config(training__epochs=1, probe__scenes=[])).run
    found = report_of(run)["label_efficiency"]
    assert [row["name"] for row in found["curves"]] == KINDS[:3]
    assert found["forest_missing"] == NO_FOREST
    assert "pip install" in NO_FOREST


def test_scenes_without_labels_are_not_drawn(folder_run: Callable[..., Path]) -> None:
    def some(split: str, labels: np.ndarray) -> np.ndarray | None:
        some.count += split == "train"  # type: ignore[attr-defined]
        return None if split == "train" and some.count % 2 else labels  # type: ignore[attr-defined]

    some.count = 0  # type: ignore[attr-defined]
    found = report_of(folder_run(some))["label_efficiency"]
    assert found["train_scenes"] == 2
    assert [point["scenes"] for point in found["curves"][0]["points"]] == [1, 2]
