"""Intervals equal published ones, and the samples to corrupt are chosen by the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.tasks.corruption_report import CONDITIONS, chosen_samples, row, share_with_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_the_literature(successes: int, trials: int, low: float, high: float) -> None:
    share = share_with_interval(successes, trials)
    assert share["value"] == successes / trials
    assert (share["low"], share["high"]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_sure_share_has_an_interval_too() -> None:
    share = share_with_interval(20, 20)
    assert share["high"] == 1
    assert share["low"] == pytest.approx(0.8389, abs=5e-5)


def test_samples_are_chosen_by_the_seed() -> None:
    chosen = chosen_samples(1000, 50, 1)
    assert len(set(chosen.tolist())) == 50
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, chosen_samples(1000, 50, 1))
    assert not np.array_equal(chosen, chosen_samples(1000, 50, 2))
    assert np.array_equal(chosen_samples(10, 50, 1), np.arange(10))


def test_the_first_row_is_about_pictures_as_they_are() -> None:
    assert CONDITIONS[0] is None
    first = row(None, accuracy=[True, False])
    assert (first["corruption"], first["strength"], first["accuracy"]["value"]) == ("none", None, 0.5)
