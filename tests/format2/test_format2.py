"""Run folders of checkpoint format 2, as earlier versions wrote them, still validate, evaluate, plot and resume."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.engine.checkpoint.files import NEWEST, load_checkpoint
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.resume import resume
from dbbd_cli.services.validate import validate

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
TOLERANCE = 1e-4
"""Relative. fp32 has 24 bits: other processors and thread counts add up in another order, over about 100 layers."""


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The run folder of a name, unpacked."""
    with tarfile.open(HERE / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / str(request.param)


@pytest.mark.parametrize("run", list(EXPECTED), indirect=True)
def test_a_run_of_format_2_works_with_every_command(run: Path) -> None:
    expected = EXPECTED[run.name]
    here = [Override("data.num_workers", 0, "--set")]
    assert validate(run, overrides=here).metrics["loss"] == pytest.approx(expected["validate"], rel=TOLERANCE)
    report = evaluate(run, split="test", plots=False, overrides=here).report
    assert report["loss"] == pytest.approx(expected["evaluate"], rel=TOLERANCE)
    assert plot([run])
    assert resume(run, overrides=[Override("training.epochs", 3, "--epochs"), *here]).run == run
    history = load_checkpoint(run / NEWEST)["state"]["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert history[-1]["val"]["loss"] == pytest.approx(expected["resumed"], rel=TOLERANCE)
