"""What each command asks of its service, and what it prints of the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_results import EVALUATION, FACTS, TRAINED
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.config.load import Typed
from dbbd_cli.services.results import EvaluateResult, Forecast, PlotResult, SmokeResult, SmokeStep, ValidateResult

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _looks_like_a_run(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pth").touch()


def test_train_merges_options_over_settings(run: Run, fake_service: Run) -> None:
    calls = fake_service("train", train=TRAINED)
    result = run(
        *(
            "train",
            "--config",
            "qr_cnn",
            "--epochs",
            "3",
            "--set",
            "training.epochs=5",
            "--set",
            "training.batch_size=8",
        ),
        *("--run-name", "mine", "--runs-dir", "elsewhere", "--device", "cpu", "--precision", "fp32", "--seed", "7"),
        "--no-plots",
    )
    assert result.exit_code == 0, result.stderr
    (call,) = calls
    (config,) = call["positional"]
    assert config.training.epochs == 3  # the option, not --set
    assert config.training.batch_size == 8
    assert (config.run.name, config.run.runs_dir) == ("mine", "elsewhere")
    assert (config.run.device, config.run.precision, config.run.plots) == ("cpu", "fp32", False)
    assert config.seed == 7
    assert call["command"][0] == "dbbd"


def test_train_leaves_the_configuration_alone(run: Run, fake_service: Run) -> None:
    calls = fake_service("train", train=TRAINED)
    run("train", "-c", "qr_cnn")
    config = calls[0]["positional"][0]
    assert (config.training.epochs, config.run.plots, config.seed) == (10, True, 42)


def test_a_wrong_option_is_named_as_it_was_typed(run: Run) -> None:
    result = run("train", "--config", "qr_cnn", "--epochs", "0")
    assert result.exit_code == 2
    assert "--epochs" in result.stderr


def test_dry_run_forecasts(run: Run, fake_service: Run) -> None:
    forecast = Forecast(FACTS, 10, 444.0, 4440.0, 3000.0, 590.0, 2360.0, 10_000.0, 0.6931)
    calls = fake_service("train", forecast=forecast)
    result = run("train", "--config", "qr_cnn", "--dry-run")
    assert [call["function"] for call in calls] == ["forecast"]
    assert "about 1.2 h" in result.stdout


def test_resume(run: Run, fake_service: Run, tmp_path: Path) -> None:
    calls = fake_service("resume", resume=TRAINED)
    run("resume", str(tmp_path), "--epochs", "20", "--set", "data.num_workers=2", "--device", "cpu")
    (call,) = calls
    assert call["positional"] == (tmp_path,)
    given = [(change.key, change.value, change.origin) for change in call["overrides"]]
    assert given[0][:2] == ("data.num_workers", Typed("2"))
    assert given[1:] == [("training.epochs", 20, "--epochs"), ("run.device", "cpu", "--device")]


def test_validate(run: Run, fake_service: Run, tmp_path: Path) -> None:
    metrics = {"loss": 0.43215, "accuracy": 0.8013}
    answer = ValidateResult(
        tmp_path, tmp_path / "best_model.pth", 7, 1500, True, metrics, {"loss": 0.43215}, "cpu", "fp32"
    )
    calls = fake_service("validate", validate=answer)
    result = run("validate", str(tmp_path))
    assert calls[0]["positional"] == (tmp_path,)
    assert "SYNTHETIC" in result.stdout
    loss, accuracy = (line.split() for line in result.stdout.splitlines()[-2:])
    assert loss == ["loss", "0.4321", "0.4321"]
    assert accuracy == ["accuracy", "80.13%", "-"]


def test_evaluate(run: Run, fake_service: Run, tmp_path: Path) -> None:
    answer = EvaluateResult(tmp_path, tmp_path / "best_model.pth", EVALUATION, [tmp_path / "evaluation.json"])
    calls = fake_service("evaluate", evaluate=answer)
    run("evaluate", str(tmp_path), "--split", "val", "--out", "report", "--no-plots")
    assert calls[0]["split"] == "val"
    assert calls[0]["out"] == Path("report")
    assert calls[0]["plots"] is False
    run("evaluate", str(tmp_path))
    assert calls[1]["split"] == "test"
    assert calls[1]["out"] is None
    assert calls[1]["plots"] is True


def test_plot(run: Run, fake_service: Run, tmp_path: Path) -> None:
    calls = fake_service("plot", plot=PlotResult([Path("a.svg"), Path("b.svg")]))
    result = run("plot", str(tmp_path), str(tmp_path), "--out", "figures", "--format", "svg")
    assert calls == [
        {"function": "plot", "positional": ([tmp_path, tmp_path],), "out": Path("figures"), "format": "svg"}
    ]
    assert result.stdout == "a.svg\nb.svg\n"


def test_output_that_cannot_carry_a_name_shows_it_escaped(fake_service: Run, tmp_path: Path) -> None:
    fake_service("plot", plot=PlotResult([Path("é.png")]))
    result = CliRunner(charset="ascii").invoke(app, ["plot", str(tmp_path)])
    assert result.stdout == "\\xe9.png\n"


@pytest.mark.parametrize("passed", [True, False])
def test_smoke_exits_with_1_if_a_step_failed(passed: bool, run: Run, fake_service: Run) -> None:
    steps = [SmokeStep("image_classification", "train", 1.0, True, ""), SmokeStep("x", "plot", 1.0, passed, "why")]
    calls = fake_service("smoke", smoke=SmokeResult(Path("runs/smoke"), "cpu", "fp32", steps, 2.0))
    result = run("smoke", "--epochs", "1", "--device", "cpu", "--runs-dir", "elsewhere")
    assert result.exit_code == (0 if passed else 1)
    assert ("FAIL" in result.stdout) is not passed
    assert calls[0] | {"progress": None} == {
        "function": "smoke", "positional": (), "epochs": 1, "task": "all", "device": "cpu",
        "runs_dir": Path("elsewhere"), "progress": None,
    }  # fmt: skip
    answer = json.loads(run("smoke", "--json").stdout)
    assert answer["passed"] is passed
    assert (answer["device"], answer["precision"], answer["synthetic"]) == ("cpu", "fp32", True)


def test_json_is_one_strict_object(run: Run, fake_service: Run, tmp_path: Path) -> None:
    metrics = {"loss": math.nan, "accuracy": math.inf}
    path = tmp_path / "é\x1b.pth"
    fake_service("validate", validate=ValidateResult(tmp_path, path, 7, 1500, False, metrics, None, "cpu", "fp32"))
    result = run("validate", str(tmp_path), "--json")
    assert result.stdout.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    answer = json.loads(result.stdout, parse_constant=refuse)
    assert answer == {
        "run": str(tmp_path), "checkpoint": str(path), "epoch": 7, "num_samples": 1500, "synthetic": False,
        "device": "cpu", "precision": "fp32",
        "metrics": {"loss": None, "accuracy": None}, "logged": None,
    }  # fmt: skip
