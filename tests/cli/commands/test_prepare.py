"""`dbbd prepare` passes its options to its service; unusable samples give exit code 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.services.results import PrepareResult

Run = Callable[..., Any]
RESULT = PrepareResult("dbbd", "scenes", "scans", True, 5, 2, [], 1, Path("cache"), 12.5)


def test_the_options_reach_the_service(run: Run, fake_service: Run) -> None:
    calls = fake_service("prepare", prepare=RESULT)
    result = run("prepare", "--config", "dbbd_scannet", "--set", "data.grid_size=0.1", "--seed", "7", "--workers", "3")
    assert result.exit_code == 0
    [call] = calls
    [config] = call["positional"]
    assert (config.data.path, config.data.grid_size, config.seed, call["num_workers"]) == (None, 0.1, 7, 3)
    assert "5 in 12.5 s" in result.stdout
    assert "Unusable" not in result.stdout


def test_unusable_samples_give_the_exit_code_of_data_errors(run: Run, fake_service: Run) -> None:
    fake_service("prepare", prepare=replace(RESULT, problems=["a.ply: is truncated"]))
    result = run("prepare", "--config", "dbbd_scannet")
    assert result.exit_code == 3
    assert "Unusable" in result.stdout
    result = run("prepare", "--config", "dbbd_scannet", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["problems"] == ["a.ply: is truncated"]


def test_a_task_that_prepares_nothing(run: Run, fake_service: Run) -> None:
    fake_service("prepare", prepare=replace(RESULT, task="image_classification", needed=False))
    result = run("prepare", "--config", "qr_cnn")
    assert result.exit_code == 0
    assert result.stdout.startswith("Nothing to prepare")


def test_of_several_processes_the_first_shows_the_result_of_its_share(
    run: Run, fake_service: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_service("prepare", prepare=replace(RESULT, processes=4))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    result = run("prepare", "--config", "dbbd_scannet")
    assert result.exit_code == 0
    assert "one of 4 processes" in result.stdout
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert run("prepare", "--config", "dbbd_scannet").stdout == ""
