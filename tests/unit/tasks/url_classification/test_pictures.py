"""A run on pictures of codes trains on what they say, reads no picture again, and is evaluated on corrupted ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import DataError
from dbbd_cli.data.images import processes
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.urls.synthetic import synthetic_urls
from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.evaluation import evaluation_problem
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.url_classification import corruptions

FEW = (None, ("rotation", 30.0), ("cover", 100.0))


def trained(folder: Path, *settings: str) -> Path:
    small = [
        f"run.runs_dir={folder / 'runs'}", "run.plots=false", "run.device=cpu", "data.split.group=none",
        "data.sample_per_class=20", "model.hash_bits=10", "training.epochs=1",
    ]  # fmt: skip
    return train(load_config("smoke_url", [parse_override(text) for text in [*small, *settings]])).run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, urls in synthetic_urls(20, 1).items():
        (tmp_path / "codes" / name).mkdir(parents=True)
        for number, url in enumerate(sorted(urls)):
            Image.fromarray(render_modules(url, 3)).save(tmp_path / "codes" / name / f"{number}.png")
    return tmp_path / "codes"


def test_a_run_on_pictures(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "CONDITIONS", FEW)
    run = trained(tmp_path, f"data.path={pictures}")
    moved = shutil.move(pictures, tmp_path / "moved")
    with monkeypatch.context() as context:
        context.setattr(processes, "_Worker", lambda: pytest.fail("a picture is read again"))
        assert validate(run).metrics == pytest.approx(validate(run).logged, abs=1e-5)
        resume(run, overrides=[parse_override("training.epochs=2")])
        plain = evaluate(run, plots=False).report
    assert "corruptions" not in plain
    with pytest.raises(DataError, match="cannot be found"):
        evaluate(run, plots=False, corrupt=5)

    here = [parse_override(f"data.path={moved}")]
    report = evaluate(run, corrupt=100, overrides=here).report
    assert evaluation_problem(json.loads((run / "evaluation.json").read_text()), ClassificationEvaluation) == ""
    assert (run / "corruptions.png").stat().st_size > 1000
    found = report["corruptions"]
    assert found["num_samples"] == report["num_samples"] == 6
    clean, rotated, covered = found["rows"]
    assert clean["read_right"]["value"] == rotated["read_right"]["value"] == 1
    assert clean["accuracy"]["value"] == rotated["accuracy"]["value"] == pytest.approx(report["accuracy"])
    assert covered["read"]["value"] == covered["accuracy"]["value"] == covered["verdict"]["value"] == 0
    at = report["calibration"]["at_threshold"]
    negative, positive = (entry["support"] for entry in report["per_class"])
    right = at["recall"]["value"] * positive + (1 - at["false_positive_rate"]["value"]) * negative
    assert clean["verdict"]["value"] == rotated["verdict"]["value"] == pytest.approx(right / 6)
    assert evaluate(run, plots=False, corrupt=100, overrides=here).report["corruptions"]["rows"] == found["rows"]


def test_urls_are_rendered_to_be_corrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "CONDITIONS", FEW)
    run = trained(tmp_path)
    found = evaluate(run, plots=False, corrupt=4).report["corruptions"]
    assert found["num_samples"] == 4
    assert [row["read_right"]["value"] for row in found["rows"]] == [1, 1, 0]
