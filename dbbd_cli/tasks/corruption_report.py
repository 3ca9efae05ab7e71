"""What corrupted pictures do to a classifier: which samples are corrupted, and the rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dbbd_cli.data.images.corruptions import CORRUPTIONS, Corrupted
from dbbd_cli.data.random_numbers import CORRUPTION, uniform
from dbbd_cli.tasks.classification_intervals import wilson

CONDITIONS: tuple[tuple[str, float] | None, ...] = (
    None,
    *((name, strength) for name, corruption in CORRUPTIONS.items() for strength in corruption.strengths),
)
"""Corruption and strength of each row; the first row is about pictures as they are."""


def chosen_samples(num_samples: int, limit: int, seed: int) -> np.ndarray:
    """Return the indices of at most `limit` samples of a split, chosen at random, ascending."""
    order = np.argsort(uniform(seed, 0, np.arange(num_samples), 1, purpose=CORRUPTION)[:, 0], kind="stable")
    return np.sort(order[:limit])


def corrupted(condition: tuple[str, float] | None, seed: int, sample: int) -> Corrupted | None:
    """Return how to corrupt a sample; None to leave it as it is."""
    return None if condition is None else Corrupted(*condition, seed, sample)


def row(condition: tuple[str, float] | None, **hits: Sequence[bool]) -> dict[str, Any]:
    """Return a row of the report.

    Args:
        condition: corruption and strength.
        hits: name of each measurement to whether it succeeded for each sample.
    """
    name, strength = condition or ("none", None)
    unit = "" if condition is None else CORRUPTIONS[name].unit
    return {
        "corruption": name,
        "strength": strength,
        "unit": unit,
        **{key: share_with_interval(sum(values), len(values)) for key, values in hits.items()},
    }


def share_with_interval(successes: int, trials: int) -> dict[str, float]:
    """Return a share and its 95% interval."""
    low, high = wilson(successes, trials)
    return {"value": successes / trials, "low": low, "high": high}
