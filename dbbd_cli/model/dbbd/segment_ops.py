"""Reductions over segments of consecutive rows: maximum, sum, mean and softmax.

Legend: N rows, R segments (consecutive, none empty), D channels. `segment` `(N,)` is the segment of each row,
ascending, and `start` `(R,)` the first row of each.
"""

from __future__ import annotations

import torch

SYNC_FREE_DEVICES = ("cpu",)
"""Devices on which outputs with a data-dependent size need no synchronization."""


def segment_winner(x: torch.Tensor, segment: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum of each segment and channel and the first row that has it: both `(R, D)`, from `(N, D)`.

    A segment with NaN has the maximum NaN.
    """
    num_segments, channels = len(start), x.shape[1]
    top = x.new_empty(num_segments, channels)
    top.scatter_reduce_(0, segment[:, None].expand_as(x), x, "amax", include_self=False)
    winner = start[:, None].repeat(1, channels)
    wins = x == top.index_select(0, segment)
    if x.device.type in SYNC_FREE_DEVICES:
        row, channel = wins.nonzero(as_tuple=True)
        # There are far fewer hits than values, so that finding the first of each is cheap.
        winner.view(-1).scatter_reduce_(0, segment[row] * channels + channel, row, "amin", include_self=False)
    else:
        row = torch.arange(len(x), device=x.device)[:, None]
        hits = torch.where(wins, row, len(x) - 1)  # for NaN, which equals nothing, any row will do
        winner.scatter_reduce_(0, segment[:, None].expand_as(x), hits, "amin", include_self=False)
    return top, winner


def take_winners(x: torch.Tensor, winner: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """The winning values `(R, D)` of rows `(N, D)`; each gradient goes to the one winning row."""
    # Adds zero, unless the maximum is not finite: then the result must not be finite either.
    return x.gather(0, winner) + top * 0


def segment_max(x: torch.Tensor, segment: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Maximum `(R, D)` of rows `(N, D)`; among equals, the first row gets the gradient."""
    with torch.no_grad():
        top, winner = segment_winner(x, segment, start)
    return take_winners(x, winner, top)


def segment_sum(x: torch.Tensor, segment: torch.Tensor, num_segments: int) -> torch.Tensor:
    """Sum `(R, D)` of rows `(N, D)`."""
    return x.new_zeros(num_segments, x.shape[1]).index_add(0, segment, x)


def segment_mean(x: torch.Tensor, segment: torch.Tensor, num_segments: int) -> torch.Tensor:
    """Mean `(R, D)` of rows `(N, D)`."""
    ones = torch.ones(len(x), 1, device=x.device)  # bf16 cannot count beyond 256
    return segment_sum(x, segment, num_segments) / segment_sum(ones, segment, num_segments).to(x.dtype)


def segment_softmax(x: torch.Tensor, segment: torch.Tensor, num_segments: int) -> torch.Tensor:
    """Softmax of `(N, D)` over the rows of each segment, per channel."""
    top = x.new_empty(num_segments, x.shape[1])
    top.scatter_reduce_(0, segment[:, None].expand_as(x), x.detach(), "amax", include_self=False)
    exponential = (x - top.index_select(0, segment)).exp()
    return exponential / segment_sum(exponential, segment, num_segments).index_select(0, segment)
