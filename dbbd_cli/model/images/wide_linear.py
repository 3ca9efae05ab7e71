"""Linear layer with many more inputs than samples that computes matrix products in blocks.

The reason is speed on a CPU: for `fc1` of `qr_cnn` (100,352 inputs, 32 samples) the gradient of the input takes 75 ms
instead of 107, that of the weights 51 instead of 78, and the forward pass 44 instead of 51. BLAS libraries first copy
the larger factor of a product into their own layout. With few samples that copy costs more than the product itself,
unless the copied block fits into the processor's cache.

Legend: B samples, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from dbbd_cli.model.images.conv import is_plain

_INPUTS_AT_ONCE = 1024
"""With 512 outputs a block of the weights takes 2 MB."""


class WideLinear(nn.Linear):
    """`nn.Linear` for inputs `(B, I)`, faster on a CPU in fp32 if I is large and B is small.

    Args:
        in_features: I.
        out_features: O.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns `(B, O)` of values `(B, I)`."""
        if not is_plain(values):
            return super().forward(values)
        if not torch.is_grad_enabled():
            return _product(values, self.weight, self.bias)
        output: torch.Tensor = _Product.apply(values, self.weight, self.bias)
        return output


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    # Contiguous, because which values a dropout drops depends on their memory layout.
    return torch.addmm(bias.unsqueeze(1), weight, values.t()).t().contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        return _product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        values, weight = ctx.saved_tensors
        grad_output_t = grad_output.t()
        grad_values = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_values_t = values.new_empty((weight.shape[1], len(values)))
            for part, block in zip(grad_values_t.split(_INPUTS_AT_ONCE), weight.split(_INPUTS_AT_ONCE, 1), strict=True):
                torch.mm(block.t(), grad_output_t, out=part)
            grad_values = grad_values_t.t()
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight)
            for part, block in zip(
                grad_weight.split(_INPUTS_AT_ONCE, 1), values.split(_INPUTS_AT_ONCE, 1), strict=True
            ):
                torch.mm(grad_output_t, block, out=part)
        return grad_values, grad_weight, grad_output.sum(0)
