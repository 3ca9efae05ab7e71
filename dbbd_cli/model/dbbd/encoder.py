"""The DBBD network: one branch from the whole scene down, one from the leaves up, with shared weights.

Legend: N points, S picked points, R regions of a level, L levels, n rows of a computation, C input features, H hidden
and D output channels, P hidden channels of the propagator, E first hidden channels of the backbone.

The results are those of the plain layers; two things make them fast. A linear layer on a concatenation is a sum, and
two consecutive linear layers are one matrix (`_product`). And in max pooling only the winning points have a gradient,
so only they are computed with gradient (`DbbdEncoder._pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dbbd_cli.model.dbbd import segment_ops
from dbbd_cli.model.dbbd.layers import (
    Aggregator,
    CombineProjection,
    Mlp,
    RegionEncoder,
    linear_at,
    run_layers,
    two_layers,
)
from dbbd_cli.model.dbbd.regions import PointGroups, RegionBatch
from dbbd_cli.model.dbbd.segment_ops import segment_mean, segment_winner, take_winners

_CHUNK_ROWS = 4096
"""Rows per chunk of the pass without gradient, so that its tensors stay in the cache of the CPU."""
_CHUNK_ROWS_GPU = 1 << 18

_Encode = Callable[["slice | torch.Tensor"], torch.Tensor]
"""Computes the selected rows."""


@dataclass(frozen=True)
class BranchFeatures:
    """The features that a branch computes.

    Attributes:
        regions: `(R, D)` for each level from the root down.
        points: `(S, D)` of the picked points, in their order.
    """

    regions: list[torch.Tensor]
    points: torch.Tensor


class DbbdEncoder(nn.Module):
    """Both branches of the network.

    Args:
        feature_dim: C.
        hidden_dim: H.
        output_dim: D.
        encoder_hidden_dims: hidden channels of the backbone, at least one.
        propagator_hidden_dim: P.
        aggregation: `max`, `mean` or `attention` over the children of a region.
        pooling: `max` or `mean` over the points of a region.
        num_heads: heads of the attention; they divide D.
        relative_propagation: whether the propagator sees a point relative to the center of the parent region, so that
            features do not depend on where in the scene a region lies; by default, it sees the coordinates themselves.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 3,
        hidden_dim: int = 96,
        output_dim: int = 96,
        encoder_hidden_dims: Sequence[int] = (64, 128),
        propagator_hidden_dim: int = 128,
        aggregation: str = "max",
        pooling: str = "max",
        num_heads: int = 4,
        relative_propagation: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if aggregation not in ("max", "mean", "attention") or pooling not in ("max", "mean"):
            raise ValueError(f"unknown aggregation {aggregation!r} or pooling {pooling!r}")
        if not encoder_hidden_dims:
            raise ValueError("encoder_hidden_dims is empty")
        if aggregation == "attention" and output_dim % num_heads:
            raise ValueError(f"output_dim {output_dim} is not a multiple of the {num_heads} heads")
        self.pooling = pooling
        self.relative_propagation = relative_propagation
        self.gradient_checkpointing = gradient_checkpointing
        self.raw_projection = Mlp(two_layers(feature_dim, hidden_dim, hidden_dim))
        self.combine_projection = CombineProjection(feature_dim, output_dim, hidden_dim)
        self.encoder = RegionEncoder(3 + hidden_dim, encoder_hidden_dims, output_dim)
        self.propagator = Mlp(two_layers(output_dim + 3, propagator_hidden_dim, output_dim, nn.GELU))
        self.aggregator = Aggregator(output_dim, aggregation, num_heads)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def global_to_local(self, coord: torch.Tensor, feat: torch.Tensor, regions: RegionBatch) -> BranchFeatures:
        """Encode `coord` `(N, 3)` and `feat` `(N, C)` from the roots down to the leaves."""
        raw, context = _Raw(self), _Context(self)
        features: list[torch.Tensor] = []
        points = []
        center = coord[:0]
        for level in regions.levels:
            gather = _Gather(coord, feat, level.points)
            if features:
                above = context.of_parents(features[-1], center).index_select(0, level.parent)
                encode = context.encoder_of(gather, above)
            else:
                encode = raw.encoder_of(gather)
            region, point = self._pool(encode, level.points)
            features.append(region)
            points.append(point)
            center = coord.index_select(0, level.points.center)
        return BranchFeatures(features, torch.cat(points).index_select(0, regions.point_order))

    def local_to_global(self, coord: torch.Tensor, feat: torch.Tensor, regions: RegionBatch) -> BranchFeatures:
        """Encode the leaves of all levels at once, then aggregate up to the roots."""
        encode = _Raw(self).encoder_of(_Gather(coord, feat, regions.leaves))
        leaves, points = self._pool(encode, regions.leaves)
        features: list[torch.Tensor] = []
        for level, below in zip(reversed(regions.levels), [None, *reversed(regions.levels[1:])], strict=True):
            region = leaves[level.leaves[0] : level.leaves[1]]
            if below is not None:
                center = coord.index_select(0, level.points.center).index_select(0, below.parent)
                relative = coord.index_select(0, below.points.center) - center
                joined = self.aggregator(features[-1], relative, below.family, below.family_start)
                region = torch.cat([region, joined.to(region.dtype)]).index_select(0, level.assemble)
            features.append(region)
        return BranchFeatures(features[::-1], points)

    def _pool(self, encode: _Encode, groups: PointGroups) -> tuple[torch.Tensor, torch.Tensor]:
        """Region features `(R, D)` and those of the picked points."""
        *rest, last = self.encoder.backbone.mlp[1:]
        hidden = nn.Sequential(*rest)

        def rows(select: slice | torch.Tensor) -> torch.Tensor:
            return run_layers(hidden, encode(select))

        if self.pooling == "mean":
            # The last layer is linear: the mean of its outputs is its output on the mean.
            x = self._maybe_checkpointed(rows, slice(None))
            mean = segment_mean(x, groups.segment, len(groups.start))
            return last(mean), last(x.index_select(0, groups.picked))

        if torch.is_grad_enabled() and groups.index.device.type not in segment_ops.SYNC_FREE_DEVICES:
            # Selecting the winning rows would synchronize the device: all are computed with gradient.
            x = last(self._maybe_checkpointed(rows, slice(None)))
            with torch.no_grad():
                top, winner = segment_winner(x, groups.segment, groups.start)
            return take_winners(x, winner, top), x.index_select(0, groups.picked)

        # First without gradient, to find the points that win a maximum. Only those and the picked ones receive a
        # gradient: the second pass runs on them alone, which is exact and saves most of the backward pass.
        num_rows = len(groups.index)
        chunk = _CHUNK_ROWS if groups.index.device.type == "cpu" else _CHUNK_ROWS_GPU
        with torch.no_grad(), _uncached_autocast(groups.index.device.type):
            chunks = [last(rows(slice(first, first + chunk))) for first in range(0, num_rows, chunk)]
            x = torch.cat(chunks)
            top, winner = segment_winner(x, groups.segment, groups.start)
        if not torch.is_grad_enabled():
            return top, x.index_select(0, groups.picked)
        needed = torch.zeros(num_rows, dtype=torch.bool, device=x.device)
        needed[winner.view(-1)] = True
        needed[groups.picked] = True
        new_row = needed.cumsum(0) - 1
        del x, chunks
        x = last(self._maybe_checkpointed(rows, needed.nonzero()[:, 0]))
        return take_winners(x, new_row[winner], top), x.index_select(0, new_row[groups.picked])

    def _maybe_checkpointed(self, rows: _Encode, select: slice | torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(rows, select, use_reentrant=False, preserve_rng_state=False)
        return rows(select)


def _uncached_autocast(device_type: str) -> torch.autocast:
    """The current autocast without its cache of cast weights.

    Older versions of PyTorch reuse weights that were cast without gradient where gradients are needed, and lose them.
    """
    enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False)


class _Gather:
    """The points of groups, in the order of the groups."""

    def __init__(self, coord: torch.Tensor, feat: torch.Tensor, groups: PointGroups) -> None:
        self.segment = groups.segment
        self.coord = coord.index_select(0, groups.index)
        self.feat = feat.index_select(0, groups.index)
        self.relative = self.coord - coord.index_select(0, groups.center).index_select(0, groups.segment)


class _Raw:
    """Raw projection and first layer of the backbone, for regions without a parent."""

    def __init__(self, encoder: DbbdEncoder) -> None:
        layers = encoder.raw_projection.mlp
        self.first, self.norm = layers[0], layers[1]
        self.to_backbone = _ToBackbone(encoder, linear_at(layers, 3))

    def encoder_of(self, points: _Gather) -> _Encode:
        """A function that computes selected rows of `points`: `(n, E)`."""

        def encode(select: slice | torch.Tensor) -> torch.Tensor:
            return self.to_backbone(self.norm(self.first(points.feat[select])), points.relative[select])

        return encode


class _Context:
    """Propagator, combination and first layer of the backbone, for regions with a parent."""

    def __init__(self, encoder: DbbdEncoder) -> None:
        layers, combine_layers = encoder.propagator.mlp, encoder.combine_projection.projection.mlp
        first, second, combine = linear_at(layers, 0), linear_at(layers, 3), linear_at(combine_layers, 0)
        self.norm, self.combine_norm = layers[1], combine_layers[1]
        channels = second.out_features
        self.parent_weight, self.coord_weight = first.weight.split([channels, 3], dim=1)
        self.parent_bias = first.bias
        self.relative = encoder.relative_propagation
        self.feat_weight, context_weight = combine.weight.split([combine.in_features - channels, channels], dim=1)
        self.context_weight, self.context_bias = _product(context_weight, second, combine.bias)
        self.to_backbone = _ToBackbone(encoder, linear_at(combine_layers, 3))

    def of_parents(self, features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
        """The contribution `(R, P)` of parents to the first layer of the propagator.

        Args:
            features: of the parents, `(R, D)`.
            center: their centers, `(R, 3)`.
        """
        x = F.linear(features, self.parent_weight, self.parent_bias)
        # Linear in the coordinates: subtracting the center from each point is subtracting its product once.
        return _add_product(x, -center, self.coord_weight) if self.relative else x

    def encoder_of(self, points: _Gather, above: torch.Tensor) -> _Encode:
        """A function that computes selected rows of `points`: `(n, E)`; `above` `(R, P)` is from the parents."""

        def encode(select: slice | torch.Tensor) -> torch.Tensor:
            x = above.index_select(0, points.segment[select])
            x = _add_product(x, points.coord[select], self.coord_weight)
            x = F.linear(F.gelu(self.norm(x)), self.context_weight, self.context_bias)
            x = _add_product(x, points.feat[select], self.feat_weight)
            return self.to_backbone(self.combine_norm(x), points.relative[select])

        return encode


class _ToBackbone:
    """ReLU, then the last layer of a projection and the first of the backbone as one matrix."""

    def __init__(self, encoder: DbbdEncoder, projection: nn.Linear) -> None:
        first = linear_at(encoder.encoder.backbone.mlp, 0)
        self.relative_weight, hidden_weight = first.weight.split([3, projection.out_features], dim=1)
        self.weight, self.bias = _product(hidden_weight, projection, first.bias)

    def __call__(self, x: torch.Tensor, relative: torch.Tensor) -> torch.Tensor:
        x = F.linear(F.relu(x, inplace=True), self.weight, self.bias)
        return _add_product(x, relative, self.relative_weight)


def _add_product(x: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Add `inputs @ weight.T` to `x` in place."""
    return x.addmm_(inputs.to(x.dtype), weight.T.to(x.dtype))


def _product(outer: torch.Tensor, inner: nn.Linear, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of `outer` after `inner` with nothing in between, always in full precision."""
    with torch.autocast(outer.device.type, enabled=False):
        return outer @ inner.weight, outer @ inner.bias + bias
