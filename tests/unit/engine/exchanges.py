"""Check, as one of several processes whose number and rank are in the environment, what they exchange.

Usage: python exchanges.py
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.processes import from_environment
from dbbd_cli.engine.processes import Processes, joined
from dbbd_cli.model.processes import Shared, share_layers, shared_batch


def results_come_in_order(processes: Processes) -> None:
    for count in range(8):
        own = ((number, torch.full((number,), number)) for number in range(count)[processes.rank :: processes.size])
        found = list(processes.in_order(own))
        assert [number for number, _ in found] == list(range(count))
        assert all(rows.tolist() == [number] * number for number, rows in found)


def the_first_decides(processes: Processes) -> None:
    assert processes.of_first((str(processes.rank), math.inf if processes.is_first else 1.0)) == ("0", math.inf)


def an_error_of_one_ends_all(processes: Processes) -> None:
    def own() -> Iterator[int]:
        yield 10 + processes.rank
        if processes.rank == 1:
            raise DataError("scene.ply cannot be read", hint="restore it")
        yield 20

    found = []
    with pytest.raises(DataError, match=f"process 2 of {processes.size}: scene.ply cannot be read") as caught:
        found.extend(processes.in_order(own()))
    assert (caught.value.hint, caught.value.all_have_it) == ("restore it", True)


def tensors_start_as_those_of_the_first(processes: Processes) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    expected = {name: torch.full_like(value, 7) for name, value in module.state_dict().items()}
    module.load_state_dict({name: value + processes.rank for name, value in expected.items()})
    module.register_buffer("is_set", torch.tensor([processes.is_first]))
    processes.wrapped(module)
    for name, value in expected.items():
        assert torch.equal(module.state_dict()[name], value), name
    assert module.is_set.item() is True


def the_same_values_are_dropped(processes: Processes) -> None:
    x = torch.rand(5, 3, 4, 6)
    for whole in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, 0, 0], x.transpose(0, 1)):
        dim = 1 if whole.shape[1] == 5 else 0
        own, samples = share_of(whole, processes, dim)
        layer = nn.Sequential(nn.Dropout(0.4))
        torch.manual_seed(1)
        expected = layer(whole)
        share_layers(layer)
        layer[0].dim = dim
        torch.manual_seed(1)
        with shared_batch(Shared(samples, 5)):
            assert torch.equal(layer(own), share_of(expected, processes, dim)[0])
        after = torch.rand(3)
        torch.manual_seed(1)
        nn.Dropout(0.4)(whole)
        assert torch.equal(after, torch.rand(3)), "later layers must draw the same numbers, too"


def share_of(whole: torch.Tensor, processes: Processes, dim: int = 0) -> tuple[torch.Tensor, int]:
    """The rows of this process, and their number."""
    count = whole.shape[dim]
    first, end = (count * rank // processes.size for rank in (processes.rank, processes.rank + 1))
    return whole.narrow(dim, first, end - first), end - first


def statistics_are_those_of_the_batch(processes: Processes) -> None:
    for count in (5, 1):
        whole = torch.rand(count, 3, 4, 4).requires_grad_()
        alone, shared = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
        share_layers(shared)
        expected = alone(whole)
        (grad,) = torch.autograd.grad(expected.square().sum() + expected[0].sum(), whole)
        own, samples = share_of(whole.detach(), processes)
        # Without a sample, a process computes one that must not count.
        own = (own if samples else torch.full((1, 3, 4, 4), 100.0)).requires_grad_()
        with shared_batch(Shared(samples, count)):
            found = shared(own)
        first = found[0].sum() * (processes.rank == next(iter(ranks_with_samples(count, processes))))
        (own_grad,) = torch.autograd.grad((found.square().sum() + first) * (samples > 0), own)
        if samples:
            assert torch.allclose(found, share_of(expected, processes)[0], rtol=1e-5, atol=1e-5)
            assert torch.allclose(own_grad, share_of(grad, processes)[0], rtol=1e-4, atol=1e-4)
        for name, value in alone.state_dict().items():
            assert torch.allclose(shared.state_dict()[name], value, rtol=1e-5, atol=1e-6), name


def ranks_with_samples(count: int, processes: Processes) -> list[int]:
    size = processes.size
    return [rank for rank in range(size) if count * rank // size < count * (rank + 1) // size]


def main() -> None:
    with joined(from_environment(os.environ), timeout=60) as processes:
        for check in (
            results_come_in_order,
            the_first_decides,
            an_error_of_one_ends_all,
            tensors_start_as_those_of_the_first,
            the_same_values_are_dropped,
            statistics_are_those_of_the_batch,
        ):
            torch.manual_seed(0)
            check(processes)


if __name__ == "__main__":
    main()
