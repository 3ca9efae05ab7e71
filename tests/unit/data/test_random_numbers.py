"""Random numbers are uniform and depend on seed, epoch and sample alone."""

from __future__ import annotations

import numpy as np

from dbbd_cli.data.random_numbers import AUGMENTATION, ORDER, normal, of_points, permutation, uniform


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


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    draws = normal(42, 1, np.arange(20_000), 5, purpose=ORDER)
    assert np.abs(draws.mean(axis=0)).max() < 0.03
    assert np.abs(draws.std(axis=0) - 1).max() < 0.02
    assert np.abs((draws**4).mean(axis=0) - 3).max() < 0.25
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.03
    assert normal(42, 1, np.arange(2), 1, purpose=ORDER).shape == (2, 1)


def test_the_numbers_of_points_do_not_depend_on_the_other_samples() -> None:
    together = of_points(normal, 1, 2, np.array([4, 9, 6]), [3, 5, 7], 2, purpose=ORDER)
    assert together.shape == (15, 2)
    assert np.array_equal(of_points(normal, 1, 2, np.array([9]), [5], 2, purpose=ORDER), together[3:8])
