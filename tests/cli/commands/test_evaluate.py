"""`dbbd evaluate` passes split, output folder and figures to its service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from example_results import EVALUATION

from dbbd_cli.services.results import EvaluateResult

Run = Callable[..., Any]


def test_options(run: Run, fake_service: Run, tmp_path: Path) -> None:
    (tmp_path / "ckpt.pth").touch()
    answer = EvaluateResult(tmp_path, tmp_path / "best_model.pth", EVALUATION, [tmp_path / "evaluation.json"])
    calls = fake_service("evaluate", evaluate=answer)
    run("evaluate", str(tmp_path), "--split", "val", "--out", "report", "--no-plots")
    run("evaluate", str(tmp_path))
    run("evaluate", str(tmp_path), "--data", "urls2.csv")
    chosen, default, other = calls
    assert (chosen["data"], default["data"], other["data"]) == (None, None, Path("urls2.csv"))
    assert (chosen["split"], chosen["out"], chosen["plots"]) == ("val", Path("report"), False)
    assert (default["split"], default["out"], default["plots"]) == ("test", None, True)


def test_another_split_is_an_error_with_those_that_exist(run: Run, tmp_path: Path) -> None:
    result = run("evaluate", str(tmp_path), "--split", "final")
    assert result.exit_code == 2
    assert "'--split': 'final' is not one of 'train', 'val', 'test'" in result.stderr
