"""Structures of many index tensors that travel as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

import torch

_T = TypeVar("_T")


def packed(value: _T, move: Callable[[torch.Tensor], torch.Tensor]) -> _T:
    """The same structure with all its tensors as parts of one, which `move` may bring elsewhere.

    One copy to a GPU is quicker than dozens; and each tensor that comes from another process by itself would take one
    of the files that a process may have open.

    Args:
        value: dataclasses and tuples that hold one-dimensional int64 tensors on one device.
        move: what is done with the one tensor.
    """
    tensors: list[torch.Tensor] = []

    def collect(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    _map(value, collect)
    parts = iter(move(_joined(tensors)).split([len(tensor) for tensor in tensors]))
    return _map(value, lambda _: next(parts))


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    """All tensors, one after the other; without a copy where that is how they lie in memory already."""
    storage = tensors[0].untyped_storage()
    total = sum(len(tensor) for tensor in tensors)
    shared = all(tensor.untyped_storage().data_ptr() == storage.data_ptr() for tensor in tensors)
    if shared and storage.nbytes() == total * tensors[0].element_size():
        return tensors[0].as_strided((total,), (1,), 0)
    return torch.cat(tensors)


def _map(value: _T, function: Callable[[torch.Tensor], torch.Tensor]) -> _T:
    """The same structure with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _map(getattr(value, field.name), function) for field in fields(value)})
    return value
