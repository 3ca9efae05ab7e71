"""The speed of the machine, arithmetic and memory, to which scores are relative."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import UnsupportedError, alternately, median, seconds_of

SIZE = 2048
"""Rows and columns of the matrices: 17 GFLOP, enough for full speed."""
TRIAL_SIZE = 256
"""The same for processors that emulate bf16, where a large product takes half a minute."""
COPIED_BYTES = 256 * 1024**2


def gemm(dtype: torch.dtype) -> Callable[[], float]:
    """Return a function that multiplies two square matrices with all threads and returns the GFLOP/s."""
    emulated = dtype == torch.bfloat16 and _best_of_trials(dtype) < _best_of_trials(torch.float32)
    return _product(TRIAL_SIZE if emulated else SIZE, dtype)


def require_bf16() -> None:
    """Skip the case if bf16 products are slower than fp32 ones: no run would use them, and a step takes minutes.

    Raises:
        UnsupportedError: they are slower; the message says by how much.
    """
    fp32, bf16 = _best_of_trials(torch.float32), _best_of_trials(torch.bfloat16)
    if bf16 < fp32:
        raise UnsupportedError(f"this processor has no fast bf16: {bf16:.3g} GFLOP/s, compared with {fp32:.3g} in fp32")


def _best_of_trials(dtype: torch.dtype) -> float:
    # The best, not the median: other load must not change the answer.
    return max(alternately([_product(TRIAL_SIZE, dtype)], 7)[0])


def _product(size: int, dtype: torch.dtype) -> Callable[[], float]:
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return lambda: 2e-9 * size**3 / seconds_of(lambda: torch.mm(left, right, out=product))


def copy() -> Callable[[], float]:
    """Return a function that copies 256 MiB with all threads and returns GB/s, bytes read plus bytes written."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: 2e-9 * COPIED_BYTES / seconds_of(lambda: target.copy_(source))


def describe(repeat: int) -> dict[str, Any]:
    """Measure and describe the machine."""
    functions = {"gemm_fp32": gemm(torch.float32), "gemm_bf16": gemm(torch.bfloat16), "copy_gbs": copy()}
    columns = alternately(list(functions.values()), repeat)
    return {
        **{name: median(column) for name, column in zip(functions, columns, strict=True)},
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
