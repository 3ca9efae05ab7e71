"""`dbbd smoke` runs every task or the one that is named, and exits with 1 if a step failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.services.results import SmokeResult, SmokeStep
from dbbd_cli.tasks.registry import task_names

Run = Callable[..., Any]
STEP = SmokeStep("image_classification", "train", 1.0, True, "")
RESULT = SmokeResult(Path("runs/smoke"), "cpu", "fp32", [STEP], 2.0)


@pytest.mark.parametrize("passed", [True, False])
def test_exit_code(passed: bool, run: Run, fake_service: Run) -> None:
    steps = [STEP, SmokeStep("x", "plot", 1.0, passed, "why")]
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


def test_every_registered_task_can_be_named(run: Run, fake_service: Run) -> None:
    calls = fake_service("smoke", smoke=RESULT)
    for name in task_names():
        assert run("smoke", "--task", name).exit_code == 0
    assert [call["task"] for call in calls] == task_names()


def test_an_unknown_task_is_refused_with_the_names_of_all(run: Run, fake_service: Run) -> None:
    calls = fake_service("smoke", smoke=RESULT)
    result = run("smoke", "--task", "no-such-task")
    assert result.exit_code == 2
    for name in ("no-such-task", *task_names()):
        assert name in result.stderr
    assert calls == []
