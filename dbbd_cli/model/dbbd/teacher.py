"""The teacher: an exponential moving average of a network, from which the keys of its losses come."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.loss import DbbdLoss

_M = TypeVar("_M", bound=nn.Module)


class Teacher(nn.Module):
    """The moving average of encoder and projection heads.

    Its weights are buffers: they have no gradient and no optimizer, and are part of the state dict.

    Args:
        encoder: the encoder that it begins with.
        loss: the projection heads that it begins with.
    """

    def __init__(self, encoder: DbbdEncoder, loss: DbbdLoss) -> None:
        super().__init__()
        self.encoder = _with_buffers(encoder)
        self.loss = _with_buffers(loss)

    @torch.no_grad()
    def follow(self, encoder: DbbdEncoder, loss: DbbdLoss, momentum: float) -> None:
        """Move towards the current weights: `momentum` times the old ones, plus the rest of the current ones."""
        weights = dict(self.named_buffers())
        for prefix, module in (("encoder", encoder), ("loss", loss)):
            for name, parameter in module.named_parameters():
                weights[f"{prefix}.{name}"].lerp_(parameter, 1.0 - momentum)


def _with_buffers(module: _M) -> _M:
    """A copy of a module with buffers instead of parameters."""
    copy = deepcopy(module)
    for part in copy.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach().clone())
    return copy
