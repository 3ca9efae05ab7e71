"""Contributions are exact Shapley values: those of a brute-force average over all orders, and they add up."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from dbbd_cli.model.urls.explain import MAX_PARTS, coalitions, explain, shapley_values


def brute_force(values: torch.Tensor, num_parts: int) -> list[float]:
    """The mean effect of adding each part, over all orders."""
    totals, orders = [0.0] * num_parts, list(permutations(range(num_parts)))
    for order in orders:
        present = 0
        for part in order:
            totals[part] += float(values[present | 1 << part] - values[present])
            present |= 1 << part
    return [total / len(orders) for total in totals]


@pytest.mark.parametrize("num_parts", [0, 1, 2, 3, 5])
def test_values_are_those_of_the_definition(num_parts: int) -> None:
    values = torch.randn(1 << num_parts, generator=torch.Generator().manual_seed(num_parts), dtype=torch.float64)
    found = shapley_values(values)
    assert found.tolist() == pytest.approx(brute_force(values, num_parts), abs=1e-12)
    assert float(found.sum()) == pytest.approx(float(values[-1] - values[0]), abs=1e-12)


def test_an_additive_function_is_explained_by_its_terms() -> None:
    weights = torch.tensor([2.0, -1.0, 0.0, 0.5, 3.0, -0.25, 1.0, 1.0, 1.0])
    found, empty, total = explain(lambda present: 7 + present.float() @ weights, len(weights), batch_size=100)
    assert found.tolist() == pytest.approx(weights.tolist(), abs=1e-6)
    assert (empty, total) == (7, pytest.approx(7 + float(weights.sum())))


def test_parts_that_matter_only_together_share_their_effect() -> None:
    found, _, _ = explain(lambda present: 6.0 * present[:, :2].all(1), 3)
    assert found.tolist() == pytest.approx([3, 3, 0])


def test_a_coalition_is_a_row_of_bits() -> None:
    assert coalitions(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]


def test_misuse() -> None:
    with pytest.raises(ValueError, match="3 values are not those of all coalitions"):
        shapley_values(torch.zeros(3))
    with pytest.raises(ValueError, match="too many"):
        explain(lambda present: present.sum(1), MAX_PARTS + 1)
