"""What a network costs to use: time, arithmetic and memory, measured on the real thing."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dbbd_cli.engine.runtime import Runtime, count_parameters, peak_memory_mb, size_mb

WARM_UP_RUNS = 3
TIMED_RUNS = 20
TIME_LIMIT_SECONDS = 20.0


def measure_efficiency(network: nn.Module, inputs: torch.Tensor, runtime: Runtime) -> dict[str, Any]:
    """Measures inference.

    Args:
        network: in evaluation mode, on the device.
        inputs: a batch on the device; its first dimension is the batch.
        runtime: device and precision.

    Returns:
        Parameters, size, multiply-adds of one sample, times of a batch and of a single sample with their spread,
        throughput and peak memory; plain values, ready for JSON.
    """
    batch_ms = _times_ms(network, inputs, runtime)
    single_ms = _times_ms(network, inputs[:1], runtime)
    return {
        "parameters": count_parameters(network),
        "size_mb": size_mb(network),
        "multiply_adds": count_multiply_adds(network, inputs[:1]),
        "batch_size": len(inputs),
        "ms_per_batch": _spread(batch_ms),
        "ms_per_sample": _spread(single_ms),
        "samples_per_second": len(inputs) / statistics.median(batch_ms) * 1000.0,
        "peak_memory_mb": peak_memory_mb(runtime.device),
        "device": runtime.description,
        "precision": runtime.precision,
    }


def count_multiply_adds(network: nn.Module, sample: torch.Tensor) -> int:
    """Multiply-adds of one forward pass, counted operation by operation as PyTorch runs them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(sample)
    return int(counter.get_total_flops()) // 2


def _times_ms(network: nn.Module, inputs: torch.Tensor, runtime: Runtime) -> list[float]:
    times = []
    deadline = time.perf_counter() + TIME_LIMIT_SECONDS
    with torch.inference_mode():
        for run in range(WARM_UP_RUNS + TIMED_RUNS):
            runtime.synchronise()
            start = time.perf_counter()
            with runtime.autocast():
                network(inputs)
            runtime.synchronise()
            if run >= WARM_UP_RUNS:
                times.append((time.perf_counter() - start) * 1000.0)
            if times and time.perf_counter() > deadline:
                break
    return times


def _spread(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": statistics.median(ordered),
        "p10": ordered[int(0.1 * (len(ordered) - 1))],
        "p90": ordered[round(0.9 * (len(ordered) - 1))],
    }
