"""A target that cannot be resumed is explained, and a run folder is used by one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dbbd_cli.core.errors import CheckpointError, InUseError
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.runs.folder import locked
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

Make = Callable[..., ImageClassificationConfig]


def test_targets_that_cannot_be_resumed_are_explained(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resume(tmp_path / "no" / "such" / "run")
    with pytest.raises(CheckpointError, match="is not in a run folder"):
        resume(tmp_path)
    run = train(tiny_config(training__epochs=1)).run
    checkpoint = load_checkpoint(run / "ckpt.pth")
    checkpoint["module"].pop("network.fc1.weight")
    (run / "ckpt.pth").unlink()
    save_with_digest(checkpoint, run / "ckpt.pth")
    with pytest.raises(CheckpointError, match="does not match this configuration"):
        resume(run / "ckpt.pth")
    for name in ("splits.json", "config.yaml"):
        (run / name).unlink()
    with pytest.raises(CheckpointError, match=r"there is no splits\.json"):
        resume(run)


def test_a_run_folder_is_used_by_one_process_at_a_time(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with locked(run), pytest.raises(InUseError, match="in use by process"):
        resume(run)
    resume(run)
