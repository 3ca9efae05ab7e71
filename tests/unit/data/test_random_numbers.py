from __future__ import annotations

import numpy as np

from dbbd_cli.data.random_numbers import permutation, uniform


def test_numbers_are_uniform_and_uncorrelated() -> None:
    draws = uniform(42, 1, np.arange(20_000), 3)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(draws.var(axis=0) - 1 / 12).max() < 0.003
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03


def test_a_number_depends_on_seed_epoch_and_sample_alone() -> None:
    whole = uniform(7, 3, np.arange(100), 2)
    part = uniform(7, 3, np.array([90, 5]), 2)
    assert np.array_equal(part, whole[[90, 5]])
    for seed, epoch in ((8, 3), (7, 4), (3, 7)):
        assert not np.isclose(uniform(seed, epoch, np.arange(100), 2), whole).any()


def test_permutation_holds_every_sample_once_and_changes_with_the_epoch() -> None:
    orders = [permutation(1, epoch, 500) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(500))
    assert (orders[0] != orders[1]).mean() > 0.9
    assert (orders[0] != np.arange(500)).mean() > 0.9
