"""`predict` uses the calibration of its checkpoint and no other, and refuses what a task cannot do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.model.digest import stored_digest
from dbbd_cli.report.prediction import Prediction
from dbbd_cli.services.predict import predict
from dbbd_cli.services.train import train
from dbbd_cli.tasks.base import Task
from dbbd_cli.tasks.registry import get_task
from unit.services.shown_runs import Shown

Make = Callable[..., Any]


def write_calibration(run: Path, **changes: object) -> None:
    values = {
        "format": 1,
        "checkpoint": "best_model.pth",
        "checkpoint_sha256": stored_digest(run / "best_model.pth"),
        "split": "val",
        "num_samples": 4,
        "temperature": 2.0,
        "positive_class": "malicious",
        "false_positive_rate": 0.01,
        "threshold": 0.9,
        "achieved": None,
    }
    (run / "calibration.json").write_text(json.dumps({**values, **changes}))


def test_calibration(tiny_config: Make, picture_folder: Make) -> None:
    root = picture_folder(classes=("benign", "malicious"))
    run = train(tiny_config(data__source="folder", data__path=str(root), training__epochs=1)).run
    picture = str(root / "benign" / "0.png")

    def judge() -> tuple[Any, Shown]:
        shown = Shown()
        [result] = predict(run, [picture], progress=shown)
        return result, shown

    plain, shown = judge()
    assert (plain.calibrated, plain.threshold, plain.positive_class) == (False, 0.5, "malicious")
    [line] = [line for line in shown.lines if "calibrat" in line]
    assert line == "There is no calibration.json: the probabilities are not calibrated, and the threshold is 0.5."

    write_calibration(run)
    fitted, shown = judge()
    assert (fitted.calibrated, fitted.threshold) == (True, 0.9)
    odds = [result.probability / (1 - result.probability) for result in (plain, fitted)]
    assert odds[1] ** 2 == pytest.approx(odds[0], rel=1e-4)  # a temperature of 2 halves the logits
    assert fitted.verdict == "benign"
    write_calibration(run, bias=[0.5, -0.5])
    biased = judge()[0].probability
    assert biased / (1 - biased) == pytest.approx(odds[1] * math.exp(-1.0), rel=1e-4)
    write_calibration(run, bias=[0.5])
    damaged, shown = judge()
    assert not damaged.calibrated
    assert "not one bias per class" in shown.warnings[-1]

    write_calibration(run, threshold=0.0)
    assert judge()[0].verdict == "malicious"

    write_calibration(run, checkpoint_sha256="0" * 64)
    other, shown = judge()
    assert (other.calibrated, other.probability) == (False, plain.probability)
    assert any("belongs to another checkpoint" in line for line in shown.lines)

    (run / "calibration.json").write_text("{")
    damaged, shown = judge()
    assert not damaged.calibrated
    assert "is damaged" in shown.warnings[-1]


def test_the_threshold_is_only_used_for_the_class_that_it_was_chosen_for(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    positive = [parse_override("data.positive_class=benign")]
    [result] = predict(run, ["no-such.png"], overrides=positive)
    assert result.status == "skipped"
    write_calibration(run)
    message = "it is benign, but the run's threshold was chosen for malicious"
    with pytest.raises(ConfigError, match=message):
        predict(run, [], overrides=positive)
    write_calibration(run, positive_class="benign")
    with pytest.raises(ConfigError, match="chosen for benign"):
        predict(run, [])
    predict(run, [], overrides=positive)


def test_a_task_without_prediction_says_so(tiny_point_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    monkeypatch.setattr(type(get_task("dbbd")), "predict", Task.predict)
    with pytest.raises(ConfigError, match="predict: the task dbbd does not support prediction"):
        predict(run, [])


@pytest.mark.parametrize(("probability", "verdict"), [(0.6, "bad"), (0.5999, "good")])
def test_a_probability_equal_to_the_threshold_reaches_it(probability: float, verdict: str) -> None:
    shares = {"bad": probability, "good": 1 - probability}
    found = Prediction("a", "judged", probabilities=shares, positive_class="bad", threshold=0.6)
    assert found.verdict == verdict


def test_a_run_without_files_takes_no_folder_for_them(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="--out: a run of image_classification writes no files"):
        predict(run, [], out=tmp_path)
