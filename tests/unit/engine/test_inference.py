"""A split is run without training the network, and a stop ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dbbd_cli.core.progress import Silent
from dbbd_cli.core.signals import StopRequest, StopRequestedError
from dbbd_cli.engine.inference import run_batches, run_split
from unit.engine.line_workload import CPU, LineWorkload, NormalizedWorkload


def test_a_split_is_summed_over_all_samples_and_leaves_the_network_unchanged() -> None:
    workload = NormalizedWorkload()
    loader = workload.loaders["val"]
    workload.module.train()
    with Silent().phase("validate", len(loader)) as bar:
        sums = run_split(workload, loader, CPU, bar)
    assert sums.plain()["num_samples"] == 10
    # The weights are zero, so that the loss is the mean of y squared.
    assert sums.values["loss"] == pytest.approx(float(workload.val.y.square().sum()))
    assert not workload.module.training
    assert int(workload.module.norm.num_batches_tracked) == 0  # type: ignore[union-attr,arg-type]


def test_outputs_come_with_their_batches() -> None:
    workload = LineWorkload()
    found = [batch[2].tolist() for _, batch in run_batches(workload, workload.loaders["val"], CPU)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_stop_ends_the_split_after_the_batch() -> None:
    workload, stop = LineWorkload(), StopRequest()
    loader, seen = workload.loaders["val"], []
    batches = loader.batches

    def watched(epoch: int, start: int = 0, step: int = 1) -> Iterator[Any]:
        for batch in batches(epoch, start, step):
            seen.append(len(batch[0]))
            yield batch

    loader.batches = watched  # type: ignore[method-assign]

    class Asking:
        def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
            stop.ask(signal.SIGTERM)

    with pytest.raises(StopRequestedError):
        run_split(workload, loader, CPU, Asking(), stop)
    assert seen == [4]
