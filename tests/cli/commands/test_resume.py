"""`dbbd resume` passes the run and the changes to its configuration to its service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from example_results import TRAINED

from dbbd_cli.config.load import Unparsed

Run = Callable[..., Any]


def test_options_become_overrides(run: Run, fake_service: Run, tmp_path: Path) -> None:
    (tmp_path / "ckpt.pth").touch()
    calls = fake_service("resume", resume=TRAINED)
    run("resume", str(tmp_path), "--epochs", "20", "--set", "data.num_workers=2", "--device", "cpu")
    (call,) = calls
    assert call["positional"] == (tmp_path,)
    assert call["force"] is False
    given = [(change.key, change.value, change.origin) for change in call["overrides"]]
    assert given[0][:2] == ("data.num_workers", Unparsed("2"))
    assert given[1:] == [("training.epochs", 20, "--epochs"), ("run.device", "cpu", "--device")]
