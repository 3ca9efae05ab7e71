"""Random numbers are uniform and depend on seed, epoch and sample alone."""

from __future__ import annotations

import numpy as np

from dbbd_cli.data.random_numbers import AUGMENTATION, ORDER, permutation, uniform


def test_numbers_are_uniform_and_uncorrelated() -> None:
    draws = uniform(42, 1, np.arange(20_000), 3, purpose=ORDER)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(draws.var(axis=0) - 1 / 12).max() < 0.003
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    neighbors = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbors) < 0.03


def test_a_number_depends_on_seed_epoch_and_sample_alone() -> None:
    whole = uniform(7, 3, np.arange(100), 2, purpose=ORDER)
    part = uniform(7, 3, np.array([90, 5]), 2, purpose=ORDER)
    assert np.array_equal(part, whole[[90, 5]])
    for seed, epoch in ((8, 3), (7, 4), (3, 7)):
        assert not np.isclose(uniform(seed, epoch, np.arange(100), 2, purpose=ORDER), whole).any()


def test_permutation_holds_every_sample_once_and_changes_with_the_epoch() -> None:
    orders = [permutation(1, epoch, 500) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(500))
    assert (orders[0] != orders[1]).mean() > 0.9
    assert (orders[0] != np.arange(500)).mean() > 0.9


def test_the_order_tells_nothing_of_the_augmentation() -> None:
    place = np.empty(7000)
    place[permutation(42, 1, 7000)] = np.arange(7000)
    for draws in uniform(42, 1, np.arange(7000), 3, purpose=AUGMENTATION).T:
        assert abs(np.corrcoef(place, draws)[0, 1]) < 0.05
