"""PyTorch's optimizers without what hides them from `torch.compile`.

PyTorch wraps the methods of an optimizer so that its compiler leaves them alone, and these wrappers import the compiler
(`torch._dynamo`, SymPy and a thousand modules more: as long again as PyTorch itself) when the first of them is called,
whether anything is compiled or not. Nothing here ever compiles an optimizer.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from dbbd_cli.core.compat import without_compiler

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def eager(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """A class of optimizers that computes the same, and needs no compiler for it.

    Where another PyTorch wraps them otherwise, methods stay as they are: the start takes longer, and nothing is wrong.
    """
    bare: dict[str, Any] = {name: without_compiler(getattr(optimizer, name)) for name in _METHODS}
    step = without_compiler(optimizer.step)
    bare["step"] = step and torch.no_grad()(step)  # its wrapper turns gradients off too
    methods = {name: method for name, method in bare.items() if method is not None}
    return type(optimizer.__name__, (optimizer,), methods)
