"""Stop runs and resume them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.core.errors import StoppedError
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.config import DbbdConfig


class StopsBefore(Silent):
    """Press Ctrl-C before the first batch of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def phase(self, title: str, *args: Any, **kwargs: Any) -> Any:
        if title.startswith(f"Epoch {self.epoch}/") and title.endswith("train"):
            signal.raise_signal(signal.SIGINT)
        return super().phase(title, *args, **kwargs)


def check_resumed_run(make: Callable[..., DbbdConfig], settings: dict[str, Any]) -> Path:
    """A run that was stopped and resumed has the weights of the uninterrupted one, whose folder is returned."""
    whole = train(make(**settings)).run
    with pytest.raises(StoppedError):
        train(make(**settings, run__name="stopped"), progress=StopsBefore(2))
    (stopped,) = whole.parent.glob("*-stopped")
    resume(stopped)
    first, second = (load_checkpoint(run / "ckpt.pth") for run in (whole, stopped))
    for part in ("module", "optimizer"):
        assert same(first[part], second[part], exact=True), part
    return whole
