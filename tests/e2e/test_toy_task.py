"""A task of another package, found by its entry point, goes through every command without a change to this one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from real_program import dbbd, one_after_another, start

TOY = Path(__file__).parents[1] / "toy_task"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package of the task."""
    monkeypatch.setenv("PYTHONPATH", str(TOY))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a table of 60 rows next to it."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 2))
    rows = np.column_stack([x, 3 * x[:, 0] - x[:, 1]]).round(4).tolist()
    lines = ["a,b,price", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "toy.yaml"
    path.write_text(
        "task: toy_regression\ndata: {path: table.csv, target: price}\nrun: {device: cpu, plots: false}\n"
        "training: {batch_size: 16, learning_rate: 0.03, scheduler: none}\ncheckpoint: {metric: r2}\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_train_ctrl_c_resume_validate_evaluate_plot_and_smoke(config: Path, tmp_path: Path) -> None:
    process = start("-m", "dbbd_cli", "train", "--config", config.name, "--epochs", "100000", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/best_model.pth")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "dbbd resume" in told

    (run,) = (tmp_path / "runs").iterdir()
    epochs = 30 + sum('"kind": "epoch"' in line for line in (run / "history.jsonl").read_text().splitlines())
    outputs, _ = one_after_another(
        ["smoke", "--task", "toy_regression", "--device", "cpu"],
        ["resume", str(run), "--epochs", str(epochs), "--json"],
        ["validate", str(run), "--json"],
        ["evaluate", str(run)],
        ["plot", str(run)],
        ["plot", str(run), "--format", "html", "--out", "figures"],
        cwd=tmp_path,
    )
    smoked, resumed, validated, evaluated, _, _ = outputs
    result = json.loads(resumed)
    assert (result["epochs"], result["metric"]) == (epochs, "r2")
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = max(row["val"]["r2"] for row in history if row["kind"] == "epoch")
    assert result["best"]["r2"] == best  # the highest, as the name of the metric says
    assert json.loads(validated)["metrics"]["r2"] == pytest.approx(best, abs=1e-6)
    assert "Mean absolute error" in evaluated
    report = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert report["mae"] < report["baseline_mae"] / 2
    assert (run / "predictions.png").stat().st_size > 0
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + report["num_samples"]
    page = (tmp_path / "figures" / "report.html").read_text(encoding="utf-8")
    assert "R²" in page
    assert "of predicting the mean" in page
    assert "All 7 steps passed" in smoked


def test_mistakes_in_its_settings_are_reported_like_any_other(config: Path, tmp_path: Path) -> None:
    config.write_text("task: toy_regresion\nsmall_mode: 1\n", encoding="utf-8")
    assert "did you mean toy_regression?" in dbbd("train", "--config", config.name, cwd=tmp_path, code=2).stderr
    config.write_text("task: toy_regression\ndata: {targt: y}\nmodel: {num_heads: 1}\n", encoding="utf-8")
    told = dbbd("train", "--config", config.name, cwd=tmp_path, code=2).stderr
    assert "toy.yaml:2: data.targt is unknown" in told
    assert "it is a setting of the task dbbd" in told


def test_its_data_errors_end_with_the_exit_code_for_data(config: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,price\n1,2\n3,x\n", encoding="utf-8")
    assert "is not a table of numbers" in dbbd("train", "--config", config.name, cwd=tmp_path, code=3).stderr
