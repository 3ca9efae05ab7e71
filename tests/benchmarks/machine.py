"""What the machine can do: the arithmetic and the memory that scores are relative to."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import NotHereError, in_turn, median, seconds_of

SIZE = 2048
"""Rows and columns of the matrices: 17 GFLOP, enough for full speed."""
SIZE_OF_TRIAL = 256
"""The same for processors that only imitate bf16: there a large product takes half a minute."""
COPIED_BYTES = 256 * 1024**2


def gemm(dtype: torch.dtype) -> Callable[[], float]:
    """A product of two square matrices with all threads; each call makes one and returns its GFLOP/s."""
    imitated = dtype == torch.bfloat16 and _best_of_trials(dtype) < _best_of_trials(torch.float32)
    return _product(SIZE_OF_TRIAL if imitated else SIZE, dtype)


def require_bf16() -> None:
    """Raises where bf16 products are slower than fp32 ones: no run would use them, and a step takes minutes.

    Raises:
        NotHereError: says how fast they are.
    """
    fp32, bf16 = _best_of_trials(torch.float32), _best_of_trials(torch.bfloat16)
    if bf16 < fp32:
        raise NotHereError(f"this processor has no bf16: {bf16:.3g} GFLOP/s, and {fp32:.3g} in fp32")


def _best_of_trials(dtype: torch.dtype) -> float:
    # The best, not the median: whether the processor has it does not depend on what else it is doing.
    return max(in_turn([_product(SIZE_OF_TRIAL, dtype)], 7)[0])


def _product(size: int, dtype: torch.dtype) -> Callable[[], float]:
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return lambda: 2e-9 * size**3 / seconds_of(lambda: torch.mm(left, right, out=product))


def copy() -> Callable[[], float]:
    """A copy of 256 MiB with all threads; each call returns GB/s, of bytes read plus bytes written."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: 2e-9 * COPIED_BYTES / seconds_of(lambda: target.copy_(source))


def describe(repeat: int) -> dict[str, Any]:
    """The machine in figures and words."""
    functions = {"gemm_fp32": gemm(torch.float32), "gemm_bf16": gemm(torch.bfloat16), "copy_gbs": copy()}
    columns = in_turn(list(functions.values()), repeat)
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
