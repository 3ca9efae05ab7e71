"""`dbbd train` passes the merged configuration to its service and prints the result or the forecast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from example_results import FACTS, TRAINED

from dbbd_cli.services.results import Forecast

Run = Callable[..., Any]


def test_options_take_precedence_over_set(run: Run, fake_service: Run) -> None:
    calls = fake_service("train", train=TRAINED)
    result = run(
        *("train", "--config", "qr_cnn", "--epochs", "3"),
        *("--set", "training.epochs=5", "--set", "training.batch_size=8"),
        *("--run-name", "mine", "--runs-dir", "elsewhere", "--device", "cpu", "--precision", "fp32", "--seed", "7"),
        "--no-plots",
    )
    assert result.exit_code == 0, result.stderr
    (call,) = calls
    (config,) = call["positional"]
    assert config.training.epochs == 3
    assert config.training.batch_size == 8
    assert (config.run.name, config.run.runs_dir) == ("mine", "elsewhere")
    assert (config.run.device, config.run.precision, config.run.plots) == ("cpu", "fp32", False)
    assert config.seed == 7
    assert call["command"][0] == "dbbd"


def test_without_options_the_configuration_stays_as_it_is(run: Run, fake_service: Run) -> None:
    calls = fake_service("train", train=TRAINED)
    run("train", "-c", "qr_cnn")
    config = calls[0]["positional"][0]
    assert (config.training.epochs, config.run.plots, config.seed) == (10, True, 42)


def test_small_turns_on_small_mode(run: Run, fake_service: Run) -> None:
    calls = fake_service("train", train=TRAINED)
    run("train", "-c", "dbbd_scannet", "--set", "data.source=synthetic", "--small")
    assert calls[0]["positional"][0].small_mode is True
    refused = run("train", "-c", "qr_cnn", "--small")
    assert refused.exit_code == 2
    assert "--small" in refused.stderr


def test_an_invalid_option_is_named_as_it_was_typed(run: Run) -> None:
    result = run("train", "--config", "qr_cnn", "--epochs", "0")
    assert result.exit_code == 2
    assert "--epochs" in result.stderr


def test_dry_run_prints_a_forecast(run: Run, fake_service: Run) -> None:
    forecast = Forecast(FACTS, 10, 444.0, 4440.0, 3000.0, 590.0, 2360.0, 10_000.0, 0.6931)
    calls = fake_service("train", forecast=forecast)
    result = run("train", "--config", "qr_cnn", "--dry-run")
    assert [call["function"] for call in calls] == ["forecast"]
    assert "about 1.2 h" in result.stdout
