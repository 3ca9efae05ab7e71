"""Exact Shapley values: what each part of an input contributes to the output of a network.

The contribution of a part is its effect on the output, averaged over all orders in which the parts can be added to an
empty input (Shapley, "A value for n-person games", 1953). All 2^S inputs that consist of some of the parts are
evaluated, so nothing is estimated: the contributions add up to the difference between the whole input and the empty
one.

S = parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

MAX_PARTS = 16


def coalitions(num_parts: int) -> torch.Tensor:
    """Which parts each coalition contains, `(2^S, S)`, bool: part i is bit i of the row number."""
    return (torch.arange(1 << num_parts)[:, None] >> torch.arange(num_parts)) & 1 > 0


def shapley_values(values: torch.Tensor) -> torch.Tensor:
    """Compute the contribution of each part, `(S,)`, float64, from the values of all coalitions `(2^S,)`."""
    num_parts = len(values).bit_length() - 1
    if len(values) != 1 << num_parts:
        raise ValueError(f"{len(values)} values are not those of all coalitions")
    values, member = values.double(), coalitions(num_parts)
    size = member.sum(1)
    # Orders in which exactly the members of a coalition without part i come before it, as a share of all orders.
    shares = [1 / (num_parts * math.comb(num_parts - 1, before)) for before in range(num_parts)]
    share = torch.tensor(shares, dtype=torch.float64)
    contributions = []
    for part in range(num_parts):
        without = ~member[:, part]
        effect = values[member[:, part]] - values[without]  # both in the order of the other bits
        contributions.append((share[size[without]] * effect).sum())
    return torch.stack(contributions) if contributions else torch.zeros(0, dtype=torch.float64)


def explain(
    value_of: Callable[[torch.Tensor], torch.Tensor], num_parts: int, *, batch_size: int = 256
) -> tuple[torch.Tensor, float, float]:
    """Explain the value of an input by its parts.

    Args:
        value_of: returns the values `(B,)` of inputs that consist of some of the parts, given as `(B, S)`, bool.
        num_parts: number of parts, at most `MAX_PARTS`.
        batch_size: number of inputs to evaluate together.

    Returns:
        The contributions `(S,)`, float64; the value of the empty input; the value of the whole input.
    """
    if num_parts > MAX_PARTS:
        raise ValueError(f"{num_parts} parts are too many: {MAX_PARTS} at most")
    values = torch.cat(list(_values(value_of, num_parts, batch_size)))
    return shapley_values(values), float(values[0]), float(values[-1])


def _values(
    value_of: Callable[[torch.Tensor], torch.Tensor], num_parts: int, batch_size: int
) -> Iterator[torch.Tensor]:
    for present in coalitions(num_parts).split(batch_size):
        yield value_of(present).detach().double().cpu()
