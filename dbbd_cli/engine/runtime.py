"""Device, precision, random state and memory of the process."""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dbbd_cli.errors import ConfigError
from dbbd_cli.limits import require_memory

MIB = 1024**2
_BYTES_OF_THREAD = 64 * MIB
"""Address space of a thread's stack and of its first heap, roughly."""


@dataclass(frozen=True)
class Runtime:
    """What the engine computes on.

    Attributes:
        device: where the network is.
        dtype: type of the arithmetic under autocast; float32 means no autocast.
        description: device in words, with why it was chosen.
        precision: precision in words.
    """

    device: torch.device
    dtype: torch.dtype
    description: str
    precision: str

    @property
    def reading_waits(self) -> bool:
        """Whether the device computes behind the program's back, so that reading a value means to wait for it."""
        return self.device.type != "cpu"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def synchronise(self) -> None:
        """Waits until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def choose_runtime(device: str, precision: str) -> Runtime:
    """Finds the device and precision of a run.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.

    Raises:
        ConfigError: the device is not there, or cannot do the precision. Nothing is silently replaced.
    """
    chosen, why = _choose_device(device)
    name = ("bf16" if _multiplies_bf16(chosen) else "fp32") if precision == "auto" else precision
    if name == "fp16" and chosen.type == "cpu":
        raise ConfigError(
            "run.precision: fp16 is for GPUs, and the device is the CPU",
            hint="set run.precision to bf16 or fp32",
        )
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Runtime(chosen, dtype, why, name + (" (chosen by auto)" if precision == "auto" else ""))


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether there are instructions for bf16; without, a processor takes up to 200 times as long as in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions cannot tell
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return False


def start_threads() -> None:
    """Starts the threads that PyTorch computes with, while there is memory for them.

    Raises:
        MemoryError: there is too little: GNU OpenMP would end the process.
    """
    require_memory(torch.get_num_threads() * _BYTES_OF_THREAD)
    torch.ones(1 << 20).add_(1)


def keep_freed_memory() -> None:
    """Makes the C library keep large blocks that were freed, rather than give them back and get them anew.

    With glibc a training step of `qr_cnn` gets a gigabyte anew, page by page, each of them set to zero first: that is a
    sixth of its time.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        _keep_blocks(ctypes.CDLL(None).mallopt)


def _keep_blocks(mallopt: Callable[[int, int], int]) -> None:
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    # Older versions refuse more than 32 MB. Without the first, the second would do harm: it ends the adaptation.
    if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):
        mallopt(trim_threshold, 2**31 - 1)


def _choose_device(wanted: str) -> tuple[torch.device, str]:
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    there[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    name = there[0] if wanted == "auto" else "cuda:0" if wanted == "cuda" else wanted
    if name not in there:
        raise ConfigError(
            f"run.device: {wanted} is not available here",
            hint=f"choose one of: {', '.join(['auto', *there])}",
        )
    device = torch.device(name)
    if device.type == "cuda":
        title = f"{name} ({torch.cuda.get_device_name(device)})"
    else:
        title = f"cpu ({torch.get_num_threads()} threads)" if name == "cpu" else name
    return device, title + (", chosen by auto" if wanted == "auto" else "")


def seed_everything(seed: int) -> None:
    """Seeds every random stream of the process: Python, NumPy, PyTorch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of every random stream, as tensors and plain values."""
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
    """Puts back what `random_state` gave. Streams of devices that are not here are left out."""
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
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_mb(module: nn.Module) -> float:
    """Size of parameters and buffers in units of 1024² bytes."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far, in units of 1024² bytes: of the device, or of the process where that is the CPU."""
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
