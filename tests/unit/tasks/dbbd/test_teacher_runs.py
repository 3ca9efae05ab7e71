"""Runs with a teacher and cut views resume bit for bit, and their weights serve like any others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import make_network
from unit.tasks.dbbd.resuming import check_resumed_run

Make = Callable[..., DbbdConfig]
ALL: dict[str, Any] = {
    "loss.momentum": 0.9, "loss.symmetric": True, "data.views.mask": 0.3, "data.views.point_dropout": 0.1,
    "data.views.crop": 0.8, "data.views.local_views": 1, "data.views.feature_noise": 0.1, "data.views.flip": True,
    "training.epochs": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes", [{}, {"training.accumulate_batches": 2}, {"loss.kind": "prototypes", "loss.num_prototypes": 12}]
)
def test_a_resumed_run_has_the_teacher_of_the_uninterrupted_one(
    tiny_point_config: Make, changes: dict[str, Any]
) -> None:
    settings = {**ALL, **changes}
    module = load_checkpoint(check_resumed_run(tiny_point_config, settings) / "ckpt.pth")["module"]
    taught = {name.removeprefix("teacher."): value for name, value in module.items() if name.startswith("teacher.")}
    assert set(taught) == set(module) - {f"teacher.{name}" for name in taught}
    assert not any(torch.equal(value, module[name]) for name, value in taught.items())


def test_in_all_batches_of_a_step_the_teacher_moves_once(tiny_point_config: Make) -> None:
    for accumulate in (1, 4):
        module = make_network(tiny_point_config(**ALL, training__accumulate_batches=accumulate))
        assert module.momentum**accumulate == pytest.approx(0.9)


def test_a_run_with_a_teacher_is_evaluated_and_its_weights_start_others(tiny_point_config: Make) -> None:
    run = train(tiny_point_config(**ALL)).run
    assert Path(evaluate(run).run).exists()
    weights = load_checkpoint(run / "ckpt.pth")["module"]
    other = train(
        tiny_point_config(
            **{"model.weights": str(run / "ckpt.pth"), "training.learning_rate": 1e-9, "training.min_lr": 0}
        )
    ).run
    found = load_checkpoint(other / "ckpt.pth")["module"]
    assert not any(name.startswith("teacher.") for name in found)
    assert same({name: weights[name] for name in found}, found, exact=False)
