"""Losses, gradients and weights that are NaN or infinite change nothing, are named, and are never saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dbbd_cli.core.errors import DataError, NotFiniteError
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.nonfinite import StepResult, check_weights, step_if_finite
from dbbd_cli.engine.optimizer import build_optimizer
from dbbd_cli.engine.processes import Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.services.smoke import same
from unit.engine.line_workload import CPU, AsyncRuntime, LineWorkload, NormalizedWorkload, config, train, weight
from unit.services.shown_runs import Shown


@pytest.fixture(params=[CPU, AsyncRuntime(**vars(CPU))], ids=["read at once", "read late"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    chosen: Runtime = request.param
    return chosen


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_skipped_on_the_device_changes_nothing(optimizer: str, first: bool) -> None:
    module = nn.Linear(3, 2)
    made = build_optimizer(module, config(optimizer=optimizer).training, torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(finite: bool) -> None:
        module.zero_grad()
        module(torch.ones(1, 3)).sum().backward()
        if not finite:
            module.weight.grad.fill_(math.nan)  # type: ignore[union-attr]
        step_if_finite(torch.tensor(finite), made, scaler)

    if not first:
        step(finite=True)
    before = copy.deepcopy((module.state_dict(), made.state_dict()["state"]))
    step(finite=False)
    after = copy.deepcopy((module.state_dict(), made.state_dict()["state"]))
    assert same(before[0], after[0], exact=True)
    if not first:
        assert same(before[1], after[1], exact=True)
    step(finite=True)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())
    assert not torch.equal(before[0]["weight"], module.weight)


def test_a_bad_loss_stops_before_the_update_and_names_the_batch(tmp_path: Path, runtime: Runtime) -> None:
    workload = LineWorkload()
    workload.train.y[7] = math.nan
    with pytest.raises(NotFiniteError) as caught:
        train(workload, tmp_path, runtime=runtime)
    assert "train/7" in caught.value.details
    assert "were not updated" in caught.value.message
    assert math.isfinite(weight(workload))


def test_the_error_names_the_batch_of_the_step_that_has_the_bad_loss(tmp_path: Path, runtime: Runtime) -> None:
    workload = LineWorkload()
    order = [index for batch in workload.loaders["train"].plan(1) for _, index in batch]
    workload.train.y[order[1]] = math.nan
    with pytest.raises(NotFiniteError) as caught:
        train(workload, tmp_path, runtime=runtime, accumulate_batches=3)
    assert sorted(caught.value.details[1:]) == sorted(f"train/{index}" for index in order[:4])
    assert "no checkpoint had been saved yet" in caught.value.hint


def test_a_bad_gradient_stops_before_the_update(tmp_path: Path, runtime: Runtime) -> None:
    workload = LineWorkload()
    workload.module.layer.weight.register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr,operator]
    with pytest.raises(NotFiniteError, match="the gradient is not finite"):
        train(workload, tmp_path, runtime=runtime)
    assert weight(workload) == 0.0


def test_a_bad_validation_loss_ends_the_run_and_does_not_become_the_best(tmp_path: Path) -> None:
    workload = LineWorkload()
    train(workload, tmp_path, epochs=1)
    workload.val.y[0] = math.nan
    before = (tmp_path / "best_model.pth").read_bytes()
    (tmp_path / "two").mkdir()
    with pytest.raises(NotFiniteError, match="the validation loss is nan"):
        train(workload, tmp_path / "two")
    assert not (tmp_path / "two" / "best_model.pth").exists()
    assert (tmp_path / "best_model.pth").read_bytes() == before


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_that_are_not_finite_can_be_skipped(
    tmp_path: Path, runtime: Runtime, optimizer: str, accumulate: int
) -> None:
    workload = NormalizedWorkload()
    batches = workload.loaders["train"].plan(1)
    workload.train.x[batches[1][0][1]] = math.nan
    progress = Shown()
    settings = {"epochs": 1, "on_nonfinite": "skip", "accumulate_batches": accumulate, "optimizer": optimizer}
    trainer = train(workload, tmp_path, progress=progress, runtime=runtime, **settings)
    skipped = batches[:2] if accumulate == 2 else batches[1:2]
    assert trainer.state.skipped_steps == 1
    assert trainer.state.step == math.ceil(3 / accumulate)  # the schedule keeps its place
    assert all(torch.isfinite(value).all() for value in workload.module.state_dict().values())
    # The statistics are those of the other batches alone, and so are the sums.
    assert int(workload.module.norm.num_batches_tracked) == 3 - len(skipped)
    assert math.isfinite(trainer.state.history[0]["train"]["loss"])
    (warning,) = progress.warnings
    assert warning.endswith("skipped (1 of at most 10)")
    assert f"train/{batches[1][0][1]}" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_no_more_steps_are_skipped_than_allowed(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(NotFiniteError, match="step 3: the loss"):
        train(_all_bad(), tmp_path, runtime=runtime, on_nonfinite="skip", max_skipped_steps=2)
    with pytest.raises(NotFiniteError, match="no step of the epoch"):
        train(_all_bad(), tmp_path, runtime=runtime, on_nonfinite="skip")


def _all_bad() -> LineWorkload:
    workload = LineWorkload()
    workload.train.y[:] = math.nan
    return workload


@pytest.mark.parametrize("skips", [False, True])
def test_a_step_that_nobody_has_read_is_not_saved(tmp_path: Path, runtime: Runtime, skips: bool) -> None:
    """As when data fails in the middle of an epoch, and everything before it is saved."""
    workload = _all_bad()
    batches = workload.loaders["train"].batches

    def failing(epoch: int, start: int = 0) -> Iterator[Any]:
        yield next(iter(batches(epoch, start)))
        raise DataError("gone")

    workload.loaders["train"].batches = failing  # type: ignore[method-assign]
    with pytest.raises(DataError if skips else NotFiniteError):
        train(workload, tmp_path, runtime=runtime, on_nonfinite="skip" if skips else "stop")
    assert skips == (tmp_path / "ckpt.pth").exists()
    if skips:
        assert load_checkpoint(tmp_path / "ckpt.pth")["state"]["skipped_steps"] == 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    workload = LineWorkload()
    trainer = Trainer(workload, config(), CPU)
    trainer.save(tmp_path)
    before = (tmp_path / "ckpt.pth").read_bytes()
    with torch.no_grad():
        workload.module.layer.bias.fill_(math.inf)
    with pytest.raises(NotFiniteError, match=r"layer\.bias has non-finite values; nothing was saved"):
        trainer.save(tmp_path)
    assert (tmp_path / "ckpt.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt.pth"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found_anywhere(tmp_path: Path, bad: float) -> None:
    # Sums of large values overflow, and infinities of both signs could cancel out: neither may go unnoticed.
    weights = {"a": torch.full((1000,), 3e38), "count": torch.tensor(3), "none": torch.zeros(0), "b": torch.ones(1001)}
    check_weights(weights, TrainState(), tmp_path)
    for index in (0, 500, 1000):
        weights["b"] = torch.ones(1001)
        weights["b"][index] = bad
        weights["b"][index - 1] = -bad
        with pytest.raises(NotFiniteError, match="b has non-finite values"):
            check_weights(weights, TrainState(), tmp_path)


class TwoProcesses(Processes):
    """The first of two processes, with what the other one answers."""

    def everyone(self, value: Any) -> list[Any]:
        return [value, ["train/7"] if value else []]


def test_a_gradient_that_is_not_finite_names_the_samples_of_all_processes(tmp_path: Path) -> None:
    infinite, finite = torch.tensor(math.inf), torch.tensor(True)
    result = StepResult(1, 1, [["train/1"], ["train/2"]], [torch.tensor(1.0)] * 2, infinite, ~finite, 0.1)
    error = result.error(tmp_path, TwoProcesses(size=2))
    assert error.details == ["the batch:", "train/1", "train/2", "train/7"]
    assert error.all_have_it
