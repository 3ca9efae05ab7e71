"""Sums over an epoch are exact, and the state of a run judges its epochs."""

from __future__ import annotations

import math

import pytest
import torch

from dbbd_cli.engine.state import Sums, TrainState
from dbbd_cli.model.output import DeferredMetric, StepOutput


def test_the_elements_of_a_vector_are_summed_one_by_one() -> None:
    sums = Sums()
    for scale in (1.0, 10.0):
        metrics = {
            "counts": torch.tensor([1.0, 2.0, 3.0]) * scale,
            "hits": torch.tensor(scale),
            "late": DeferredMetric(torch.tensor([scale, scale]), lambda tensor: float(tensor.mean())),
        }
        sums.add(StepOutput(loss=torch.tensor(scale), metrics=metrics, num_samples=2))
    expected = {"loss": 22.0, "hits": 11.0, "late": 22.0, "counts_0": 11.0, "counts_1": 22.0, "counts_2": 33.0}
    assert sums.plain() == {"values": expected, "num_samples": 4}


def test_sums_are_exact_whenever_they_are_read() -> None:
    outputs = [StepOutput(torch.tensor(0.1 * n), {"correct": torch.tensor(n)}, n) for n in (3, 5, 2)]
    often, once = Sums(), Sums()
    for output in outputs:
        often.add(output)
        often.flush()
        once.add(output)
    assert often.plain() == once.plain()
    assert once.num_samples == 10
    assert once.values["loss"] == pytest.approx(0.1 * (9 + 25 + 4))
    assert once.values["correct"] == 10


def test_a_deferred_metric_keeps_its_place() -> None:
    sums = Sums()
    for n in (3, 5):
        metrics = {
            "a": torch.tensor(1.0),
            "rank": DeferredMetric(torch.tensor([n, 7]), lambda x: float(x[0])),
            "b": torch.tensor(2),
        }
        sums.add(StepOutput(torch.tensor(1.0), metrics, n))
    sums.flush()
    assert sums.values == {"loss": 8.0, "a": 2.0, "rank": 9.0 + 25.0, "b": 4.0}


def test_batches_of_a_skipped_step_do_not_count() -> None:
    sums = Sums()
    for n, good in ((1, True), (2, False), (3, True)):
        sums.add(StepOutput(torch.tensor(1.0 if good else math.nan), {}, n))
        sums.count_if(torch.tensor(good), 1)
    sums.add(StepOutput(torch.tensor(2.0), {}, 4))
    sums.flush()
    assert (sums.values, sums.num_samples) == ({"loss": 1.0 + 3.0 + 8.0}, 8)


def judged(costs: list[float], patience: int | None = None) -> TrainState:
    """The state after epochs of these costs."""
    state = TrainState()
    for cost in costs:
        best = state.judge(cost, patience, 0.0)
        state.history.append({"epoch": state.epoch, "best": best})
        state.epoch += 1
    return state


def test_by_another_metric_the_best_is_the_kept_epoch_or_the_last() -> None:
    state = judged([0.5, 0.3, 0.4])
    assert not state.judge_again([-0.7, -0.6, -0.5], None, 0.0)
    assert (state.best_epoch, state.best_value) == (2, -0.6), "the weights of epoch 1 are gone"
    state = judged([0.5, 0.3, 0.4])
    assert state.judge_again([-0.5, -0.6, -0.7], None, 0.0)
    assert (state.best_epoch, state.best_value) == (3, -0.7)
    assert [row["best"] for row in state.history] == [True, True, True]
    state = judged([0.5, 0.3, 0.4])
    state.batch = 1  # the weights are not those after epoch 3 any more
    assert not state.judge_again([-0.5, -0.6, -0.7], None, 0.0)
    assert state.best_epoch == 2


@pytest.mark.parametrize(
    ("costs", "waited", "stopped"), [([-0.5, -0.6, -0.7], 0, False), ([-0.7, -0.6, -0.5], 2, True)]
)
def test_by_another_metric_patience_is_recounted(costs: list[float], waited: int, stopped: bool) -> None:
    state = judged([0.3, 0.4, 0.5], patience=2)
    assert state.stopped_early
    state.judge_again(costs, 2, 0.0)
    assert (state.patience_epochs, state.stopped_early) == (waited, stopped)
