"""A run whose checkpoints do not fit on the disk is refused before it starts."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DiskError
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.services import disk_space
from dbbd_cli.services.disk_space import check_disk_space, checkpoint_bytes, checkpoints_bytes
from unit.engine.line_workload import CPU, LineWorkload, config

Usage = namedtuple("Usage", "total used free")
BYTES = 8
"""A weight and a bias."""


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 3), ("sgd", 2)])
def test_a_checkpoint_holds_the_weights_and_the_values_of_the_optimizer(optimizer: str, copies: int) -> None:
    trainer = Trainer(LineWorkload(), config(optimizer=optimizer), CPU)
    assert checkpoint_bytes(trainer) == copies * BYTES
    kept = trainer.config.checkpoint
    assert checkpoints_bytes(trainer) == (kept.keep + kept.save_best + 1) * copies * BYTES


def test_a_full_disk_is_refused_unless_the_checkpoints_are_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(LineWorkload(), config(), CPU)
    needed = checkpoints_bytes(trainer)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, needed))
    check_disk_space(trainer, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, needed - 1))
    with pytest.raises(DiskError, match="the checkpoints will not fit") as caught:
        check_disk_space(trainer, tmp_path)
    assert "checkpoint.keep=1" in caught.value.hint
    (tmp_path / "ckpt.pth").write_bytes(b"x")
    (tmp_path / "best_model.pth").hardlink_to(tmp_path / "ckpt.pth")
    check_disk_space(trainer, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, needed - 2))
    with pytest.raises(DiskError):  # the two names are one file
        check_disk_space(trainer, tmp_path)


def test_a_limit_on_the_size_of_files_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(LineWorkload(), config(), CPU)
    monkeypatch.setattr(disk_space, "largest_file", lambda: checkpoint_bytes(trainer) - 1)
    with pytest.raises(DiskError, match="checkpoints are too large") as caught:
        check_disk_space(trainer, tmp_path)
    assert "ulimit -f" in caught.value.hint
