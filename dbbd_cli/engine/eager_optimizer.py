"""PyTorch's optimizers without what hides them from `torch.compile`.

PyTorch wraps the methods of an optimizer so that its compiler leaves them alone, and these wrappers import the compiler
(`torch._dynamo`, SymPy and a thousand modules more: as long again as PyTorch itself) when the first of them is called,
whether anything is compiled or not. Nothing here ever compiles an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def eager(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """A class of optimizers that computes the same, and needs no compiler for it.

    Where another PyTorch wraps them otherwise, methods stay as they are: the start takes longer, and nothing is wrong.
    """
    bare: dict[str, Any] = {name: _beneath_compiler(getattr(optimizer, name)) for name in _METHODS}
    step = _beneath_compiler(optimizer.step)
    bare["step"] = step and torch.no_grad()(step)  # its wrapper turns gradients off too
    methods = {name: method for name, method in bare.items() if method is not None}
    return type(optimizer.__name__, (optimizer,), methods)


def _beneath_compiler(method: Any) -> Callable[..., Any] | None:
    """What the wrapper that imports the compiler calls; None where none does."""
    while (wrapped := getattr(method, "__wrapped__", None)) is not None:
        if "torch._dynamo" in method.__code__.co_names:
            return wrapped
        method = wrapped
    return None
