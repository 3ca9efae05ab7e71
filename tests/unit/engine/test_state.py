from __future__ import annotations

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
