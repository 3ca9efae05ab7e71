"""Scenes: the training step of DBBD at full and small size, and how its cost grows with the data."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from loop import Loop
from machine import gemm, require_bf16
from measure import Measured, UnsupportedError, alternately, median, spread

POINTS = 25_000


def step(repeat: int, max_depth: int, precision: str = "fp32", small_mode: bool = False) -> Measured:
    """Measure a step with 2 scenes, in seconds times G: the GFLOP that the machine could have computed in that time."""
    if precision == "bf16":
        require_bf16()
    return _cost(repeat, make_loop(precision, max_depth, small_mode=small_mode))


def base(repeat: int, max_depth: int, num_points: int = POINTS) -> Measured:
    """Measure the same for one scene: the baseline for growth with points and scenes."""
    return _cost(repeat, make_loop("fp32", max_depth, num_points=num_points, batch=1))


def _cost(repeat: int, loop: Loop) -> Measured:
    seconds, rates = alternately([loop.step, gemm(torch.float32)], repeat)
    costs = [second * rate for second, rate in zip(seconds, rates, strict=True)]
    return Measured(
        seconds=median(seconds),
        score=median(seconds) * median(rates),
        spread=spread(costs),
        reference={"gemm_fp32": median(rates)},
        details={"data_seconds": loop.run(1)[0].data},
    )


def depth(repeat: int, precision: str = "fp32") -> Measured:
    """Measure a step with trees of depth 4, relative to depth 3."""
    if precision == "bf16":
        require_bf16()
    deep, flat, rates = alternately(
        [make_loop(precision, 4).step, make_loop(precision, 3).step, gemm(torch.float32)], repeat
    )
    return Measured(
        seconds=median(deep),
        score=median(deep) / median(flat),
        spread=spread([one / other for one, other in zip(deep, flat, strict=True)]),
        reference={"depth3_seconds": median(flat), "gemm_fp32": median(rates)},
        details={"seconds_times_g": median(deep) * median(rates)},
    )


def points(repeat: int, num_points: int, base_points: int) -> Measured:
    """Measure the cost per point of a step with one scene, depth 4, relative to a smaller scene."""
    loops = [make_loop("fp32", 4, num_points=count, batch=1) for count in (num_points, base_points)]
    return _growth(repeat, (num_points / 1000, loops[0]), (base_points / 1000, loops[1]))


def scenes(repeat: int, num_scenes: int) -> Measured:
    """Measure the cost per scene of a step with several scenes, depth 3, relative to one scene."""
    return _growth(repeat, (num_scenes, make_loop("fp32", 3, batch=num_scenes)), (1, make_loop("fp32", 3, batch=1)))


def _growth(repeat: int, one: tuple[float, Loop], other: tuple[float, Loop]) -> Measured:
    """Seconds per unit of one run, relative to those of another."""
    (units, loop), (base_units, base) = one, other
    seconds, base_seconds = alternately([loop.step, base.step], repeat)
    factor = base_units / units
    return Measured(
        seconds=median(seconds),
        score=median(seconds) / median(base_seconds) * factor,
        spread=spread([a / b for a, b in zip(seconds, base_seconds, strict=True)]),
        reference={"base_seconds": median(base_seconds)},
        details={
            "ms_per_unit": 1000 * median(seconds) / units,
            "base_ms_per_unit": 1000 * median(base_seconds) / base_units,
        },
    )


def step_on_gpu(repeat: int) -> Measured:
    """Measure the milliseconds of a step with 8 scenes on a GPU, including data loading."""
    if not torch.cuda.is_available():
        raise UnsupportedError("no CUDA device")
    count = 10
    loop = make_loop("auto", 4, device="cuda", batch=8, steps=count)
    loop.run(count)
    times = [1000 * sum(step.data + step.arithmetic for step in loop.run(count)) / count for _ in range(repeat)]
    return Measured(
        seconds=median(times) / 1000,
        score=median(times),
        spread=spread(times),
        peak_mb=torch.cuda.max_memory_allocated() / 1024**2,
    )


def make_loop(
    precision: str,
    max_depth: int,
    *,
    small_mode: bool = False,
    num_points: int = POINTS,
    batch: int = 2,
    device: str = "cpu",
    steps: int = 3,
) -> Loop:
    """Create a run on synthetic rooms with the given number of batches per epoch, each of different rooms."""
    settings: dict[str, object] = {
        "run.precision": precision,
        "run.device": device,
        "small_mode": small_mode,
        "data.source": "synthetic",
        "data.synthetic_points": num_points,
        # 70% of them are for training; the last batch may be smaller and is not used.
        "data.synthetic_scenes": round(batch * (steps + 1) / 0.7) + 2,
        "data.max_train_scenes": batch * steps,
        "data.max_val_scenes": 1,
        "data.max_depth": max_depth,
        "data.num_workers": 0,
        "training.batch_size": batch,
    }
    return Loop("debug_local" if small_mode else "dbbd_scannet", settings, Path(tempfile.mkdtemp()))
