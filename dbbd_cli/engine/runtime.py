"""Device, precision, random state and memory of the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dbbd_cli.core.compat import cpu_capabilities
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.limits import require_memory
from dbbd_cli.core.text import counted

MIB = 1024**2
_BYTES_OF_THREAD = 64 * MIB
"""Approximate address space of a thread's stack and first heap."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
_ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that limit oneDNN, the library that computes in bf16 on a CPU, to older instructions."""
_LIMITS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
_LIMITS = (*_ONEDNN_LIMITS, "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")


@dataclass(frozen=True)
class RuntimeRecord:
    """Device, precision and processor of a run, as its checkpoints store them.

    Attributes:
        device: kind of device: `cpu`, `cuda` or `mps`.
        precision: `fp32`, `bf16` or `fp16`, never `auto`.
        threads: number of PyTorch threads.
        processor: the processor with the instruction sets that PyTorch and its libraries use.
    """

    device: str
    precision: str
    threads: int
    processor: str

    @classmethod
    def from_plain(cls, values: object) -> RuntimeRecord:
        """The record of a checkpoint.

        Raises:
            ValueError: it is not a valid record.
        """
        types = {"device": str, "precision": str, "threads": int, "processor": str}
        if (
            not isinstance(values, Mapping)
            or not all(type(values.get(name)) is kind for name, kind in types.items())
            or values["device"] not in ("cpu", "cuda", "mps")
            or values["precision"] not in _DTYPES
            or type(values.get("batch_size", 1)) is not int
            or values.get("batch_size", 1) < 1
        ):
            raise ValueError("its record of device and precision is invalid")
        return cls(**{name: values[name] for name in types})


@dataclass(frozen=True)
class Runtime:
    """The device and precision that the engine computes with.

    Attributes:
        device: device of the network.
        dtype: type for autocast; float32 means no autocast.
        description: device in words, and whether it was chosen by auto.
        precision: precision in words.
    """

    device: torch.device
    dtype: torch.dtype
    description: str
    precision: str

    @property
    def is_async(self) -> bool:
        """Whether kernels run asynchronously, so that reading a value waits for the device."""
        return self.device.type != "cpu"

    @property
    def is_slow(self) -> bool:
        """Whether the device lacks instructions for the precision, so that it is many times slower than fp32."""
        return self.dtype == torch.bfloat16 and self.device.type in ("cpu", "cuda") and not _has_fast_bf16(self.device)

    def record(self) -> RuntimeRecord:
        """The record that a checkpoint stores."""
        precision = next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)
        return RuntimeRecord(self.device.type, precision, torch.get_num_threads(), describe_processor())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; otherwise it has no effect."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def synchronize(self) -> None:
        """Wait until the device has finished all kernels."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def choose_runtime(
    device: str, precision: str, *, bf16_on_cpu: bool = True, recorded: RuntimeRecord | None = None
) -> Runtime:
    """Choose the device and precision of a run.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        bf16_on_cpu: whether `auto` chooses bf16 on a CPU that has instructions for it.
        recorded: what the run was computed with so far; `auto` keeps its precision.

    Raises:
        ConfigError: the device does not exist, or does not support the precision. Neither is replaced silently.
    """
    chosen, why = _choose_device(device)
    if precision != "auto":
        name, chosen_by = precision, ""
    elif recorded is not None:
        name, chosen_by = recorded.precision, " (kept from the run)"
    else:
        takes_bf16 = (bf16_on_cpu or chosen.type != "cpu") and _has_fast_bf16(chosen)
        name, chosen_by = "bf16" if takes_bf16 else "fp32", " (chosen by auto)"
    if name == "fp16" and chosen.type == "cpu":
        of_run = f", in which the run was trained on {recorded.device}," if recorded and precision == "auto" else ""
        raise ConfigError(
            f"run.precision: fp16{of_run} is for GPUs, and the device is the CPU",
            hint="use fp32 with --set run.precision=fp32 (or bf16), or run it on a GPU",
        )
    return Runtime(chosen, _DTYPES[name], why, name + chosen_by)


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether there are instructions for bf16; without them, a CPU can take up to 200 times as long as in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        limits = {os.environ.get(name, "").upper() for name in _ONEDNN_LIMITS}
        capabilities = cpu_capabilities()
        return any(capabilities.get(name) for name in _BF16_INSTRUCTIONS) and not limits & _LIMITS_WITHOUT_BF16
    return False


def describe_processor() -> str:
    """The processor, and what else determines which kernels run, and thus the last bits of every result.

    This is the instruction set of PyTorch's own kernels, instructions for bf16, and variables that limit libraries.
    """
    capabilities = cpu_capabilities()
    parts = [str(capabilities.get("cpu_name") or platform.machine()), torch.backends.cpu.get_cpu_capability()]
    parts += [name for name in _BF16_INSTRUCTIONS if capabilities.get(name)]
    parts += [f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)]
    return ", ".join(parts)


def start_threads() -> None:
    """Start PyTorch's threads while there is memory for them.

    Raises:
        MemoryError: there is too little memory; GNU OpenMP would end the process.
    """
    require_memory(torch.get_num_threads() * _BYTES_OF_THREAD)
    torch.ones(1 << 20).add_(1)


def keep_freed_memory() -> None:
    """Make the C library keep large freed blocks rather than return them to the system.

    Otherwise, with glibc, each training step of `qr_cnn` allocates a gigabyte anew, page by page, and zeroes each page
    first, which takes a sixth of its time.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        _keep_blocks(ctypes.CDLL(None).mallopt)


def _keep_blocks(mallopt: Callable[[int, int], int]) -> None:
    mmap_threshold, trim_threshold = -3, -1  # constants of malloc.h
    # Older versions refuse more than 32 MB. Setting only the second would turn off adaptation and do harm.
    if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
        mallopt(trim_threshold, 2**31 - 1)


def _choose_device(wanted: str) -> tuple[torch.device, str]:
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    name = available[0] if wanted == "auto" else "cuda:0" if wanted == "cuda" else wanted
    if name not in available:
        raise ConfigError(
            f"run.device: {wanted} is not available here",
            hint=f"choose one of: {', '.join(['auto', *available])}",
        )
    device = torch.device(name)
    if device.type == "cuda":
        title = f"{name} ({torch.cuda.get_device_name(device)})"
    else:
        title = f"cpu ({counted(torch.get_num_threads(), 'thread')})" if name == "cpu" else name
    return device, title + (", chosen by auto" if wanted == "auto" else "")


def seed_everything(seed: int) -> None:
    """Seed every random generator of the process: Python, NumPy, PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of every random generator, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned, except for devices that this machine does not have."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if torch.backends.mps.is_available() and state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_mb(module: nn.Module) -> float:
    """Size of parameters and buffers in units of 1024² bytes."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in units of 1024² bytes: of the device, or of the process if that is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / MIB
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
