"""Private or unstable parts of libraries: every use is here, with its reason, and a test that fails when it breaks.

Nothing is imported at module level: the command line imports this module at start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tarfile
    from pathlib import Path

    from PIL import Image
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter


def refused_global(error: BaseException) -> str | None:
    """The function or class that `torch.load(weights_only=True)` refused, from the text of its error.

    PyTorch does not expose it in any other way. If the wording changes, our error no longer names the code.
    """
    import pickle
    import re

    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"(?:GLOBAL|[Cc]lass) ([\w.]{1,200})", str(error))
    return found[1] if found else None


def start_completion() -> None:
    """Make Typer answer completion requests of the shells, outside of the `typer.main` that usually does it."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()


def install_completion(shell: str) -> tuple[str, Path]:
    """Let Typer install its completion script for a shell, which it does for its own `--install-completion` only.

    Returns:
        The name of the shell, and the file with the script.
    """
    from typer.completion import install  # type: ignore[attr-defined]

    return install(shell, prog_name="dbbd")


def start_thread(function: Callable[..., object], *arguments: Any) -> None:
    """Start a thread from a signal handler.

    `threading.Thread.start` takes a lock that the interrupted code may hold, and would wait forever.
    """
    import _thread

    _thread.start_new_thread(function, arguments)


def without_compiler(method: Any) -> Callable[..., Any] | None:
    """The method of an optimizer under the wrapper that imports `torch._dynamo`; None if there is no such wrapper.

    PyTorch has no switch for it, and the import takes as long as that of PyTorch itself. If PyTorch wraps methods
    differently in the future, start-up takes longer, and nothing else changes.
    """
    while (wrapped := getattr(method, "__wrapped__", None)) is not None:
        if "torch._dynamo" in method.__code__.co_names:
            unwrapped: Callable[..., Any] = wrapped
            return unwrapped
        method = wrapped
    return None


def cpu_capabilities() -> Mapping[str, Any]:
    """The instruction sets of the CPU by name, and `cpu_name`; empty in versions of PyTorch without this function."""
    import torch

    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities


def layers_of_batches() -> tuple[type[nn.Module], ...]:
    """Bases of all layers that are random, or compute with all samples of a batch; they have no public ones."""
    from torch.nn.modules import batchnorm, dropout

    return dropout._DropoutNd, batchnorm._BatchNorm


def data_parallel(module: nn.Module, *, skips_parameters: bool) -> nn.Module:
    """The module with gradients that are averaged over processes; its tensors are equal in all of them already.

    Args:
        module: the module.
        skips_parameters: whether a pass may leave some parameters without gradient.
    """
    from inspect import signature

    from torch.nn.parallel import DistributedDataParallel

    known = signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before PyTorch 2.14
    options: dict[str, Any] = {name: False, "init_sync": False, "find_unused_parameters": skips_parameters}
    return DistributedDataParallel(module, **options)


def add_hyperparameters(events: SummaryWriter, values: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write settings and the names of metrics to an open event file.

    `SummaryWriter.add_hparams` writes a second event file in a separate folder, as if it were another run.
    """
    from torch.utils.tensorboard.summary import hparams

    writer = events.file_writer
    assert writer is not None
    for summary in hparams(dict(values), dict(metrics)):
        writer.add_summary(summary)


def pillow_tile(image: Image.Image) -> tuple[str, int, tuple[Any, ...]] | None:
    """The decoder of an image that Pillow has opened but not decoded, the offset of its data, and its arguments.

    Pillow's public interface does not tell, before decoding, how much memory a decoder will need.
    """
    tiles = getattr(image, "tile", None)
    if not tiles:
        return None
    name, _, offset, arguments = tiles[0]
    return str(name), int(offset), arguments if isinstance(arguments, tuple) else (arguments,)


def jpeg_sampling(image: Image.Image) -> list[int]:
    """The number of samples of each component of a JPEG in a block, as stored in its header."""
    return [across * down for _, across, down, _ in image.layer]  # type: ignore[attr-defined]


def forget_members(tar: tarfile.TarFile) -> None:
    """Let a tar file that is read member by member forget those so far: it would keep all of them in memory.

    Python 3.13 has `stream=True` for this.
    """
    tar.members.clear()  # type: ignore[attr-defined]
