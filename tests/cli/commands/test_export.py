"""`dbbd export` passes its options to its service and shows what was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbbd_cli.services.results import ExportResult

Run = Callable[..., Any]
RESULT = ExportResult(
    Path("runs/a/best_model.pth"), "image_classification", 7, 12, 4.61, Path("runs/a/best_model.safetensors")
)


def test_the_options_reach_the_service(run: Run, fake_service: Run, tmp_path: Path) -> None:
    calls = fake_service("export", export=RESULT)
    (tmp_path / "splits.json").touch()
    result = run("export", str(tmp_path), "--out", "net.pth")
    assert result.exit_code == 0, result.stderr
    [call] = calls
    assert (call["positional"], call["out"]) == ((tmp_path,), Path("net.pth"))
    assert "12 tensors, 4.61 MB" in result.stdout
    result = run("export", str(tmp_path), "--json")
    assert json.loads(result.stdout)["file"] == str(RESULT.file)
