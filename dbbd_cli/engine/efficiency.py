"""Measure what inference costs: time, arithmetic and memory."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from dbbd_cli.engine.runtime import Runtime, count_parameters, peak_memory_mb, size_mb

WARM_UP_RUNS = 3
TIMED_RUNS = 20
TIME_LIMIT_SECONDS = 10.0


def measure_efficiency(
    network: nn.Module, batch: tuple[Any, ...], runtime: Runtime, *, batch_size: int
) -> dict[str, Any]:
    """Measure inference.

    Args:
        network: in evaluation mode, on the device.
        batch: the arguments of the network, on the device.
        runtime: device and precision.
        batch_size: samples in the batch.

    Returns:
        Parameters, size, time of a batch with its spread, throughput and peak memory; plain values, ready for JSON.
    """
    batch_ms = times_ms(network, batch, runtime)
    return {
        "parameters": count_parameters(network),
        "size_mb": size_mb(network),
        "batch_size": batch_size,
        "ms_per_batch": spread(batch_ms),
        "samples_per_second": batch_size / statistics.median(batch_ms) * 1000.0,
        "peak_memory_mb": peak_memory_mb(runtime.device),
        "device": runtime.description,
        "precision": runtime.precision,
    }


def count_multiply_adds(network: nn.Module, sample: torch.Tensor) -> int:
    """Multiply-adds of one forward pass, counted operation by operation as PyTorch runs them."""
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton if that is installed

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused attention is one operation that is not counted
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(sample)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops()) // 2


def times_ms(network: nn.Module, batch: tuple[Any, ...], runtime: Runtime) -> list[float]:
    """The time of each of several runs over a batch, after warm-up runs that are not counted."""
    times = []
    deadline = time.perf_counter() + TIME_LIMIT_SECONDS
    with torch.inference_mode():
        for run in range(WARM_UP_RUNS + TIMED_RUNS):
            runtime.synchronize()
            start = time.perf_counter()
            with runtime.autocast():
                network(*batch)
            runtime.synchronize()
            if run >= WARM_UP_RUNS:
                times.append((time.perf_counter() - start) * 1000.0)
            if times and time.perf_counter() > deadline:
                break
    return times


def spread(times: list[float]) -> dict[str, float]:
    """Median, and the range that contains 80 % of the values."""
    ordered = sorted(times)
    return {
        "median": statistics.median(ordered),
        "p10": ordered[int(0.1 * (len(ordered) - 1))],
        "p90": ordered[round(0.9 * (len(ordered) - 1))],
    }
