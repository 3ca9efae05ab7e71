"""Running a module over a split without training it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dbbd_cli.core.progress import Phase
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.sharding import without_gradient
from dbbd_cli.engine.state import Sums
from dbbd_cli.engine.workload import Workload
from dbbd_cli.model.output import StepOutput
from dbbd_cli.model.processes import Shared, shared_batch

_READ_EVERY = 100
"""Batches between reads of values if reading means waiting for a GPU; unread values take up its memory."""


def place(module: nn.Module, runtime: Runtime) -> nn.Module:
    """Move a module to the device; convolutions run fastest with channels last."""
    return module.to(runtime.device).to(memory_format=torch.channels_last)


def run_batches(
    workload: Workload,
    loader: BatchLoader,
    runtime: Runtime,
    stop: StopRequest | None = None,
    processes: Processes = ALONE,
) -> Iterator[tuple[StepOutput, Any]]:
    """Run the module over a split without training it; yield each output with the batch that it came from.

    Of several `processes`, each computes every P-th batch as a whole; of a divided loader, its share of every batch.
    """
    workload.module.eval()
    batches = loader.batches(epoch=0, start=processes.rank, step=processes.size)
    for number, raw_batch in enumerate(batches if stop is None else stop.interruptible(batches)):
        if stop is not None and stop.agree is not None:  # before the network, in which processes may wait for others
            stop.check()
        share = loader.share(number)
        shared = Shared(share.samples, share.total) if loader.num_processes > 1 else None
        with without_gradient(workload.module), runtime.autocast(), shared_batch(shared):
            output = workload.module(*workload.to_device(raw_batch, runtime.device, train=False))
        yield output, raw_batch


def run_split(
    workload: Workload, loader: BatchLoader, runtime: Runtime, bar: Phase, stop: StopRequest | None = None
) -> Sums:
    """Sum loss and metrics over a split without training.

    Raises:
        StopRequestedError: `stop` was asked for.
    """
    sums = Sums()
    for number, (output, _) in enumerate(run_batches(workload, loader, runtime, stop), start=1):
        sums.add(output, loader.share(number - 1))
        shown = {}
        if not runtime.is_async or number % _READ_EVERY == 0:
            sums.flush()
            # Of several processes, one may have no sample yet.
            metrics = workload.summarize(sums.values, sums.num_samples) if sums.num_samples else {}
            shown = {name: metrics[name] for name in workload.progress_metrics} if metrics else {}
        bar.advance(samples=output.num_samples, **shown)  # type: ignore[arg-type]
        if stop is not None and stop.agree is None:
            stop.check()
    return sums


def sum_split(workload: Workload, loader: BatchLoader, runtime: Runtime, bar: Phase, processes: Processes) -> Sums:
    """Sum loss and metrics over a split of which each process computes every P-th batch: the sums of a single process.

    Raises:
        DataError: one of the processes could not load a batch.
    """
    if processes.size == 1:
        sums = run_split(workload, loader, runtime, bar)
        sums.flush()
        return sums

    def of_each() -> Iterator[dict[str, Any]]:
        for output, _ in run_batches(workload, loader, runtime, processes=processes):
            sums = Sums()
            sums.add(output)
            yield sums.plain()

    parts = []
    for part in processes.in_order(of_each()):
        parts.append(part)
        bar.advance(samples=part["num_samples"])
    return Sums.of(parts)
