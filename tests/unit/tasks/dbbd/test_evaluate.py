"""The report of a run is complete strict JSON, agrees with training, and leaves the run unchanged."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from unit.tasks.dbbd.evaluations import report_of

Make = Callable[..., DbbdConfig]


def test_the_report_is_complete_and_strict_json(tiny_point_config: Make, tmp_path: Path) -> None:
    run = train(tiny_point_config()).run
    result = evaluate(run, out=tmp_path / "out")
    names = {path.name for path in result.files}
    figures = {"level_losses.png", "probe.png", "label_efficiency.png", "scene_features.png", "region_tree.png"}
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


def test_the_page_has_the_scene_in_3d(tiny_point_config: Make, tmp_path: Path) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    report = report_of(run)
    [page] = plot([run], format="html").files
    text = page.read_text(encoding="utf-8")
    [data] = re.findall(r'<script type="application/json">(.*)</script>', text)
    values = json.loads(data)
    assert values["count"] == 1000
    assert [layer["name"] for layer in values["layers"]] == ["Labels", "Features", "Height"]
    assert [name for name, _ in values["layers"][0]["legend"]] == [*report["scene"]["classes"], "unlabeled"]
    [script] = re.findall(r"<script>(.*)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


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


def test_a_run_without_a_test_split_is_refused(folder_run: Callable[..., Path]) -> None:
    run = folder_run(lambda split, labels: labels, {"train": 2, "val": 2})
    with pytest.raises(DataError, match="the run has no test split") as caught:
        evaluate(run)
    assert "--split" in caught.value.hint
    assert report_of(run, split="val")["num_samples"] == 2


def test_a_run_accepts_no_other_configuration(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="a run has its own configuration"):
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
