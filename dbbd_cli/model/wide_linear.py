"""A linear layer with many more inputs than samples, whose products are made block by block.

BLAS libraries copy the larger factor of a matrix product into an order of their own first. With few samples that copy
costs more than the product itself, unless the block that is copied fits into the processor's cache.

Legend: B samples, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from dbbd_cli.model.conv import is_plain

_INPUTS_AT_ONCE = 1024
"""With 512 outputs a block of the weights takes 2 MB."""


class WideLinear(nn.Linear):
    """`nn.Linear`; on a CPU in fp32 its passes are quicker where I is large and B is small.

    Args:
        in_features: I.
        out_features: O.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns `(B, O)` of values `(B, I)`."""
        if is_plain(values):
            output: torch.Tensor = _Product.apply(values, self.weight, self.bias)
            return output
        return super().forward(values)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        return torch.addmm(bias.unsqueeze(1), weight, values.t()).t().contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        values, weight = ctx.saved_tensors
        by_output = gradient.t()
        of_weight, of_values = torch.empty_like(weight), None
        for part, block in zip(of_weight.split(_INPUTS_AT_ONCE, 1), values.split(_INPUTS_AT_ONCE, 1), strict=True):
            torch.mm(by_output, block, out=part)
        if ctx.needs_input_grad[0]:
            of_values = values.new_empty((weight.shape[1], len(values)))
            for part, block in zip(of_values.split(_INPUTS_AT_ONCE), weight.split(_INPUTS_AT_ONCE, 1), strict=True):
                torch.mm(block.t(), by_output, out=part)
            of_values = of_values.t()
        return of_values, of_weight, gradient.sum(0)
