"""`dbbd plot` passes the runs to its service and prints the files that were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.services.results import PlotResult

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _is_a_run(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pth").touch()


def test_several_runs(run: Run, fake_service: Run, tmp_path: Path) -> None:
    calls = fake_service("plot", plot=PlotResult([Path("a.svg"), Path("b.svg")]))
    result = run("plot", str(tmp_path), str(tmp_path), "--out", "figures", "--format", "svg")
    assert calls == [
        {"function": "plot", "positional": ([tmp_path, tmp_path],), "out": Path("figures"), "format": "svg"}
    ]
    assert result.stdout == "a.svg\nb.svg\n"


def test_a_name_that_the_stream_cannot_encode_is_escaped(fake_service: Run, tmp_path: Path) -> None:
    fake_service("plot", plot=PlotResult([Path("é.png")]))
    result = CliRunner(charset="ascii").invoke(app, ["plot", str(tmp_path)])
    assert result.stdout == "\\xe9.png\n"
