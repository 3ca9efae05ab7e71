"""A small run goes through every command with the real services."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_small_run_through_every_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = {
        "data.sample_per_class": 8,
        "data.image_size": 32,
        "training.batch_size": 4,
        "data.cache_dir": "cache",
        "model.name": "mobilenet_v3_small",
    }
    settings = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    start = ("train", "--config", "smoke_qr", "--device", "cpu", *settings)

    forecast = run(*start, "--dry-run")
    assert forecast.exit_code == 0, forecast.stderr
    assert "Disk needed" in forecast.stdout
    assert not Path("runs").exists()

    trained = run(*start, "--epochs", "1", "--no-plots", "--json")
    assert trained.exit_code == 0, trained.stderr
    assert "SYNTHETIC" in trained.stderr
    answer = json.loads(trained.stdout)
    folder = answer["run"]
    assert (answer["epochs"], answer["plots"], answer["facts"]["synthetic"]) == (1, [], True)

    resumed = run("resume", folder, "--epochs", "2", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    answer = json.loads(resumed.stdout)
    assert answer["epochs"] == 2

    validated = run("validate", folder, "--json")
    assert validated.exit_code == 0, validated.stderr
    assert json.loads(validated.stdout)["metrics"]["loss"] == pytest.approx(answer["best"]["loss"], abs=1e-6)

    evaluated = run("evaluate", folder, "--no-plots")
    assert evaluated.exit_code == 0, evaluated.stderr
    for word in ("SYNTHETIC", "Accuracy", "benign", "malicious", "Confusion matrix", "Multiply-adds"):
        assert word in evaluated.stdout

    plotted = run("plot", folder, "--out", "figures", "--format", "svg")
    assert plotted.exit_code == 0, plotted.stderr
    assert all(Path(line).is_file() for line in plotted.stdout.splitlines())
