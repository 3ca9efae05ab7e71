"""Sums over an epoch are exact, and the state of a run judges its epochs."""

from __future__ import annotations

import math

import pytest
import torch

from dbbd_cli.engine.state import Sums
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
