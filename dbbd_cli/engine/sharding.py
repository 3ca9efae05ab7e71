"""Networks whose weights, gradients and optimizer states are divided among processes, by PyTorch's FSDP2.

Importing it takes seconds, so functions import what needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from dbbd_cli.model.output import StepOutput

_SMALLEST_BLOCK = 100_000
"""Parameters of a block that is gathered by itself; gathering less would cost more time than it saves memory."""


def shard(module: nn.Module, device: torch.device, num_processes: int) -> nn.Module:
    """Divide a module, which is equal in all processes, among them and move it to the device; all call this.

    During a pass, each block is gathered when it is needed: see https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _show_tensors_of_outputs()
    # It warns of outputs that share memory with others; nothing changes the output of a block in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    mesh = init_device_mesh(device.type, (num_processes,))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    # Always divided again after a pass: what a process does alone, such as listing the tensors, then changes nothing.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return module.to(device)  # what is not a parameter


@cache
def _show_tensors_of_outputs() -> None:
    """Let FSDP2 find the tensors in a `StepOutput`, from which the backward pass begins."""
    from torch.export import register_dataclass

    register_dataclass(StepOutput)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, which it calls one after the other."""
    containers = (nn.Sequential, nn.ModuleList)
    for child in module.children():
        if not isinstance(module, containers) or isinstance(child, containers):
            yield from _blocks(child)
        elif sum(parameter.numel() for parameter in child.parameters()) >= _SMALLEST_BLOCK:
            yield child


def is_sharded(module: nn.Module) -> bool:
    """Whether a module is divided among processes."""
    return hasattr(module, "set_requires_gradient_sync")


def is_shard(value: object) -> bool:
    """Whether a value is a tensor (a `DTensor`) of which this process has a part."""
    return isinstance(value, torch.Tensor) and hasattr(value, "to_local")


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process has; all of it if it is not divided."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be divided among processes, which then all call this."""
    return tensor.full_tensor() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def without_gradient(module: nn.Module) -> Any:
    """The context for passes without gradient; tensors of `inference_mode` could not be gathered again in training."""
    return torch.no_grad() if is_sharded(module) else torch.inference_mode()


def with_part(tensor: Any, part: torch.Tensor) -> torch.Tensor:
    """A tensor that is divided as another one, with this part of it, on the device of the part."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    mesh = tensor.device_mesh
    if part.device.type != mesh.device_type:
        mesh = init_device_mesh(part.device.type, (mesh.size(),))
    return DTensor.from_local(
        part, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def divided_as(tensor: Any, values: torch.Tensor) -> torch.Tensor:
    """The values, which all processes have, divided as another tensor is."""
    from torch.distributed.tensor import distribute_tensor

    values = values.to(own_part(tensor).device).contiguous()  # FSDP2 knows no other memory format
    return distribute_tensor(values, tensor.device_mesh, tensor.placements, src_data_rank=None)


def shards_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The divided tensors of a training state, under names that say where they belong."""
    parts = {"module": state["module"]}
    parts |= {f"optimizer.{index}": values for index, values in state["optimizer"].get("state", {}).items()}
    return {
        f"{part}.{name}": value for part, values in parts.items() for name, value in values.items() if is_shard(value)
    }


def without_shards(state: Mapping[str, Any]) -> dict[str, Any]:
    """A training state without its divided tensors."""

    def rest(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not is_shard(value)}

    optimizer = state["optimizer"]
    states = {index: rest(values) for index, values in optimizer["state"].items()}
    return {**state, "module": rest(state["module"]), "optimizer": {**optimizer, "state": states}}


def with_shards(state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A training state with the tensors that `without_shards` has left out.

    Raises:
        ValueError: a name says nothing.
    """
    module, optimizer = dict(state["module"]), state["optimizer"]
    states = {index: dict(values) for index, values in optimizer["state"].items()}
    for name, tensor in tensors.items():
        part, _, place = name.partition(".")
        index, _, key = place.partition(".")
        if part == "module":
            module[place] = tensor
        elif part == "optimizer" and index.isdigit() and int(index) in states:
            states[int(index)][key] = tensor
        else:
            raise ValueError(f"{name} belongs nowhere")
    return {**state, "module": module, "optimizer": {**optimizer, "state": states}}
