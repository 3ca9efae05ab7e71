"""`dbbd validate` prints the metrics next to the logged ones, as a table or as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.services.results import ValidateResult

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _is_a_run(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pth").touch()


def test_table(run: Run, fake_service: Run, tmp_path: Path) -> None:
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
