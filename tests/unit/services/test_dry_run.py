"""A dry run measures, reports problems as training would, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.core.errors import NotFiniteError
from dbbd_cli.data.images.dataset import ImageBatch
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.services import dry_run
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import forecast, train
from dbbd_cli.tasks.image_classification.workload import ImageWorkload

Make = Callable[..., Any]


def test_a_forecast_measures_and_writes_nothing(tiny_config: Make, tmp_path: Path) -> None:
    result = forecast(tiny_config(training__epochs=7))
    assert result.epochs == 7
    assert result.seconds_per_epoch > 0
    assert result.seconds_total == pytest.approx(7 * result.seconds_per_epoch)
    assert result.disk_free_mb > 0
    assert not (tmp_path / "runs").exists()
    run = train(tiny_config()).run
    assert result.checkpoint_mb == pytest.approx((run / "ckpt.pth").stat().st_size / 1024**2, rel=0.05)


def test_a_forecast_for_dbbd_has_the_loss_of_the_first_step(tiny_point_config: Make, tmp_path: Path) -> None:
    result = forecast(tiny_point_config(training__epochs=7))
    assert result.seconds_total == pytest.approx(7 * result.seconds_per_epoch)
    assert not (tmp_path / "runs").exists()
    run = train(tiny_point_config(training__epochs=1)).run
    logged = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    assert result.train_loss == pytest.approx(logged["loss"], rel=1e-6)  # that of the first batch, before any update


def test_small_mode_reports_what_it_set_and_how_many_scenes_are_used(tiny_point_config: Make) -> None:
    facts = forecast(tiny_point_config(small_mode=True)).facts
    assert facts.samples_in_words() == "4 of 6 train / 1 val / 1 test"
    assert facts.notes == {"Small mode": "fewer scenes, batches of 2, no worker processes"}
    enough = forecast(tiny_point_config(small_mode=True, data__synthetic_scenes=4)).facts
    assert enough.samples_in_words() == "2 train / 1 val / 1 test"
    assert enough.notes == {"Small mode": "batches of 2, no worker processes"}, (
        "a limit that is not reached has no effect"
    )
    assert forecast(tiny_point_config()).facts.notes == {}


def test_a_dry_run_reports_a_loss_that_is_not_finite_as_training_does(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    to_device = ImageWorkload.to_device

    def spoiled(self: ImageWorkload, batch: ImageBatch, device: torch.device, *, train: bool) -> Any:
        images, labels = to_device(self, batch, device, train=train)
        return images * torch.nan, labels

    monkeypatch.setattr(ImageWorkload, "to_device", spoiled)
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 1: the loss \(nan\) is not finite") as caught:
        forecast(tiny_config())
    assert len(caught.value.details) == 1 + tiny_config().training.batch_size
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_clips_and_steps_like_training(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its one step leaves the weights where the first step of training leaves them."""
    weights: list[dict[str, torch.Tensor]] = []
    step = dry_run.train_step

    def watched(trainer: Trainer, batches: Any) -> Any:
        result = step(trainer, batches)
        weights.append({name: value.clone() for name, value in trainer.module.state_dict().items()})
        return result

    monkeypatch.setattr(dry_run, "train_step", watched)
    config = tiny_config(training__clip_grad_norm=0.01, checkpoint__every_steps=1, checkpoint__keep=10)
    forecast(config)
    run = train(config).run
    first = next(path for path in run.glob("ckpt.previous*.pth") if load_checkpoint(path)["state"]["step"] == 1)
    assert same(weights[0], load_checkpoint(first)["module"], exact=True)
