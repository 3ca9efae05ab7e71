"""PyTorch's optimizers without the wrappers that hide them from `torch.compile`.

PyTorch wraps the methods of an optimizer so that its compiler leaves them alone. The first call of such a wrapper
imports the compiler (`torch._dynamo`, SymPy and a thousand other modules), which takes as long as importing PyTorch
itself. This program never compiles an optimizer.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from dbbd_cli.core.compat import without_compiler

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def eager(optimizer: type[_Optimizer]) -> type[_Optimizer]:
    """An optimizer class that computes the same without importing the compiler.

    Methods that another version of PyTorch wraps differently stay as they are; only start-up takes longer.
    """
    bare: dict[str, Any] = {name: without_compiler(getattr(optimizer, name)) for name in _METHODS}
    step = without_compiler(optimizer.step)
    bare["step"] = step and torch.no_grad()(step)  # its wrapper turns gradients off too
    methods = {name: method for name, method in bare.items() if method is not None}
    return type(optimizer.__name__, (optimizer,), methods)
