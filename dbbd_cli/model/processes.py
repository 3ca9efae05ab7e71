"""What a module exchanges with those of other processes that compute shares of the same batch.

A process that trains alone exchanges nothing, and its results are those of plain PyTorch.

Legend: R rows of a process, such as samples, points or regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F

from dbbd_cli.core.compat import layers_of_batches
from dbbd_cli.core.errors import ConfigError


@dataclass(frozen=True)
class Shared:
    """The batch that several processes compute together.

    Attributes:
        samples: samples of this process; 0: what it computes does not count.
        total: samples of all processes.
    """

    samples: int
    total: int


_MOST_LEVELS = 64
"""More than a region tree can have."""
_batch: Shared | None = None
"""None: this process computes whole batches."""


@contextmanager
def shared_batch(batch: Shared | None) -> Iterator[None]:
    """Within the context, modules compute a share of a batch; all processes enter it at the same time."""
    global _batch
    before, _batch = _batch, batch
    try:
        yield
    finally:
        _batch = before


def part_of_mean(mean: torch.Tensor) -> torch.Tensor:
    """What the mean over this process's samples adds to the mean over the batch."""
    return mean if _batch is None else mean * (_batch.samples / _batch.total)


def mean_of_part(part: torch.Tensor) -> torch.Tensor:
    """Scale a part of a mean over the batch so that its mean over samples of all processes is that mean."""
    return part if _batch is None else part * (_batch.total / max(_batch.samples, 1))


def part_of_whole(loss: torch.Tensor) -> torch.Tensor:
    """This process's part of a loss that each process has computed for the whole batch from `gathered` rows.

    Its gradient stays that of the whole loss: each process computes that of its own rows.
    """
    if _batch is None:
        return loss
    return loss + loss.detach() * (_batch.samples / _batch.total - 1)


def counting(number: torch.Tensor) -> torch.Tensor:
    """A number that this process has computed; 0 if it has no sample."""
    return number if _batch is None or _batch.samples else number * 0


def added(number: torch.Tensor) -> torch.Tensor:
    """The sum over processes of a tensor without gradient."""
    if _batch is None:
        return number
    total = counting(number).clone()
    distributed.all_reduce(total)
    return total


def means_of_rows(parts: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """The means of some values of rows, `(R,)` each, of which some may have no rows; of none, None.

    Of a shared batch, each is what the values of this process add to the mean over all processes.
    """
    if _batch is None:
        return [part.mean() if len(part) else None for part in parts]
    counts = added(torch.tensor([len(part) for part in parts])).tolist()
    return [counting(part.sum()) / count if count else None for part, count in zip(parts, counts, strict=True)]


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """The rows `(R, …)` of all processes, one process after the other; the gradient reaches this process's own."""
    if _batch is None:
        return rows
    joined: torch.Tensor = _Gather.apply(rows, _counts(len(rows)))
    return joined


def gathered_levels(levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The rows `(R, D)` of each level of all processes, of which some may have fewer levels than others."""
    if _batch is None:
        return list(levels)
    sizes = [len(level) for level in levels]
    own = torch.tensor([sizes + [0] * (_MOST_LEVELS - len(sizes))]) * (_batch.samples > 0)
    every = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(every, own)
    counts = torch.cat(every)
    joined = _Gather.apply(torch.cat(list(levels)), counts.sum(1).tolist())
    parts = joined.split(counts.flatten().tolist())
    num_levels = int(counts.sum(0).nonzero().max()) + 1  # one in between may be empty
    return [torch.cat(parts[level::_MOST_LEVELS]) for level in range(num_levels)]


def once(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter by which every process multiplies the same rows: its gradient must not count once for each."""
    return parameter if _batch is None else _Once.apply(parameter)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad / distributed.get_world_size()


class _Gather(torch.autograd.Function):
    """Rows of all processes; see `gathered`."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.shape, ctx.counts = own.shape, counts
        # Only tensors of one size can be exchanged.
        sent = own.new_zeros(max(counts), *own.shape[1:])
        sent[: counts[distributed.get_rank()]] = own[: counts[distributed.get_rank()]]
        every = [torch.empty_like(sent) for _ in counts]
        distributed.all_gather(every, sent)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        rank, counts = distributed.get_rank(), ctx.counts
        own = grad.new_zeros(ctx.shape)
        own[: counts[rank]] = grad[sum(counts[:rank]) :][: counts[rank]]
        return own, None


def _counts(rows: int) -> list[int]:
    """The numbers of rows of all processes; a process without samples has none."""
    assert _batch is not None
    own = torch.tensor([rows if _batch.samples else 0])
    counts = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, own)
    return [int(count) for count in counts]


def places(rows: int) -> tuple[int, int]:
    """The place of the first of `rows` rows of this process among those of all processes, and the number of all."""
    if _batch is None:
        return 0, rows
    counts = _counts(rows)
    return sum(counts[: distributed.get_rank()]), sum(counts)


class Dropout(nn.Dropout):
    """Dropout that drops the same values of a batch however many processes share it.

    All processes draw for the whole batch, from equal random states.

    Args:
        p: dropout probability.
        dim: the dimension of the rows that processes divide among themselves.
    """

    dim = 0

    def __init__(self, p: float = 0.5, dim: int = 0) -> None:
        super().__init__(p)
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` with values dropped, and the others scaled."""
        if _batch is None or not self.training or self.p == 0:
            return super().forward(x)
        rows = x.shape[self.dim]
        first, total = places(rows)
        shape = [*x.shape]
        shape[self.dim] = total
        # Numbers are drawn in the order of memory, which may be channels last.
        order = sorted(range(x.dim()), key=x.stride, reverse=True)
        whole = torch.empty_permuted(shape, order, dtype=x.dtype, device=x.device)
        mask = F.dropout(whole.fill_(1.0), self.p, training=True)
        return x * mask.narrow(self.dim, first, rows) if _batch.samples else x


class StochasticDepth(nn.Module):
    """torchvision's layer, which skips the same samples of a batch however many processes share it."""

    p: float
    mode: str

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` with the rows of some samples zero, and the others scaled."""
        if _batch is None or not self.training or self.p == 0 or self.mode != "row":
            from torchvision.ops import stochastic_depth

            unshared: torch.Tensor = stochastic_depth(x, self.p, self.mode, self.training)
            return unshared
        first, total = places(len(x))
        kept = x.new_empty([total] + [1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * (kept.narrow(0, first, len(x)) / (1 - self.p)) if _batch.samples else x


class _Sum(torch.autograd.Function):
    """The sum over processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with the statistics of a whole batch, however many processes share it, on any device.

    PyTorch's `SyncBatchNorm` needs a GPU.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` `(B, C, H, W)` normalized."""
        if _batch is None or not self.training:
            return super().forward(x)
        counts = _batch.samples > 0
        values = x if x.dtype == torch.float64 else x.float()
        # All samples have the same size, so that the number needs neither the other processes nor the GPU.
        count = values.numel() // values.shape[1] // max(_batch.samples, 1) * _batch.total
        if count <= 1:  # in the words of PyTorch
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
        mean = _Sum.apply(values.sum((0, 2, 3)) * counts) / count
        centered = values - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum((0, 2, 3)) * counts) / count
        if self.track_running_stats:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1)), share)
        scale = (variance + self.eps).rsqrt()
        normalized = centered * scale[:, None, None]
        if self.affine:
            normalized = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


def share_layers(module: nn.Module) -> None:
    """Make the layers of a module work on shared batches that otherwise depend on what a process computes alone.

    Raises:
        ConfigError: there is a layer that cannot.
    """
    for layer in module.modules():
        kind = type(layer)
        # torchvision is slow to import, and few tasks need it.
        is_depth = (kind.__module__, kind.__name__) == ("torchvision.ops.stochastic_depth", "StochasticDepth")
        if is_depth or kind in _SHARING:
            layer.__class__ = StochasticDepth if is_depth else _SHARING[kind]
        elif isinstance(layer, layers_of_batches()) and kind not in _SHARING.values():
            raise ConfigError(
                f"{kind.__name__} of this network works in one process only",
                hint="start it without --nproc, torchrun or srun, or choose another model",
            )


_SHARING: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: Dropout, nn.BatchNorm2d: BatchNorm2d}
