"""Layers of the DBBD network. Attribute names are state-dict keys, fixed by the first implementation.

Legend: R regions, K children, D channels of region features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.dbbd.segment_ops import segment_max, segment_mean, segment_softmax, segment_sum


def two_layers(inputs: int, hidden: int, outputs: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear, LayerNorm, activation, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), activation(), nn.Linear(hidden, outputs))


def linear_at(layers: nn.Sequential, index: int) -> nn.Linear:
    """The linear layer at an index."""
    layer = layers[index]
    assert isinstance(layer, nn.Linear)
    return layer


class Mlp(nn.Module):
    """Layers under the name `mlp`."""

    def __init__(self, mlp: nn.Sequential) -> None:
        super().__init__()
        self.mlp = mlp


class CombineProjection(nn.Module):
    """Combines the features of a point with the context of its parent region."""

    def __init__(self, feature_dim: int, context_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.projection = Mlp(two_layers(feature_dim + context_dim, hidden_dim, hidden_dim))


class RegionEncoder(nn.Module):
    """Encodes the points of a region."""

    def __init__(self, inputs: int, hidden_dims: Sequence[int], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for hidden in hidden_dims:
            layers += [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU()]
            inputs = hidden
        self.backbone = Mlp(nn.Sequential(*layers, nn.Linear(inputs, outputs)))


class ChildAttention(nn.Module):
    """Attention of one learned query over the children of each parent.

    Args:
        channels: D, a multiple of `num_heads`.
        num_heads: attention heads.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.spatial_encoder = nn.Sequential(nn.Linear(3, channels), nn.GELU(), nn.Linear(channels, channels))
        self.query = nn.Parameter(torch.empty(1, channels))
        self.key_proj = nn.Linear(channels, channels)
        self.value_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, relative: torch.Tensor, family: torch.Tensor, num_parents: int) -> torch.Tensor:
        """Parents `(R, D)` of children `(K, D)`; `relative` `(K, 3)` and `family` `(K,)` as in `Aggregator`."""
        x = x + self.spatial_encoder(relative)
        channels = x.shape[1] // self.num_heads
        key = self.key_proj(x).unflatten(1, (self.num_heads, channels))
        value = self.value_proj(x).unflatten(1, (self.num_heads, channels))
        score = (key * self.query.view(self.num_heads, channels)).sum(2) / math.sqrt(channels)
        weight = segment_softmax(full_precision(score), family, num_parents).to(value.dtype)
        return self.out_proj(segment_sum((value * weight[:, :, None]).flatten(1), family, num_parents))


class Aggregator(nn.Module):
    """Aggregates the features of children into one of their parent.

    Args:
        channels: D.
        mode: `max`, `mean` or `attention`.
        num_heads: heads of the attention.
    """

    def __init__(self, channels: int, mode: str, num_heads: int) -> None:
        super().__init__()
        self.mode = mode
        self.pre_mlp = two_layers(channels, channels, channels, nn.GELU)
        self.attention = ChildAttention(channels, num_heads) if mode == "attention" else None

    def forward(
        self, x: torch.Tensor, relative: torch.Tensor, family: torch.Tensor, start: torch.Tensor
    ) -> torch.Tensor:
        """Features of parents `(R, D)` from children `(K, D)`.

        Args:
            x: features of the children, siblings adjacent.
            relative: `(K, 3)` center of each child minus that of its parent.
            family: `(K,)` the parent of each child, ascending.
            start: `(R,)` first child of each parent.
        """
        x = self.pre_mlp(x)
        if self.attention is not None:
            return self.attention(x, relative, family, len(start))
        return segment_max(x, family, start) if self.mode == "max" else segment_mean(x, family, len(start))


def run_layers(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Apply layers in order, ReLU in place."""
    for layer in layers:
        x = F.relu(x, inplace=True) if isinstance(layer, nn.ReLU) else layer(x)
    return x


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; float32 and float64 unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
