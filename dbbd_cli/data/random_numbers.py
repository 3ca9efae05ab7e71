"""Random numbers that depend on (seed, epoch, sample) alone, for a whole batch at once.

Counter-based: each number is a hash of its purpose and position, so neither the workers, the order of batches nor the
point at which a run was resumed can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


ORDER, AUGMENTATION, POINTS, PROBE, BOOTSTRAP, CORRUPTION = 1, 2, 3, 4, 5, 6
JITTER, COLOR, DROPOUT = 7, 8, 9
FEATURE_DROPOUT, FEATURE_NOISE, CUT, LABELED_SCENES = 10, 11, 12, 13
"""Purposes: the numbers for one are independent of those for another."""


def uniform(seed: int, epoch: int, samples: np.ndarray, count: int, *, purpose: int) -> np.ndarray:
    """Return numbers in [0, 1), shape `(len(samples), count)`, float64."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray([seed], dtype=np.uint64) + np.uint64(purpose) * _GOLDEN)
        state = _mix(state ^ (np.uint64(epoch) * _GOLDEN + np.uint64(1)))
        state = _mix(state ^ (samples.astype(np.uint64) * _GOLDEN + np.uint64(2)))
        draws = _mix(state[:, None] + np.arange(1, count + 1, dtype=np.uint64)[None, :] * _GOLDEN)
    return (draws >> np.uint64(11)).astype(np.float64) / 2.0**53


def normal(seed: int, epoch: int, samples: np.ndarray, count: int, *, purpose: int) -> np.ndarray:
    """Return numbers of the standard normal distribution, shape `(len(samples), count)`, float64."""
    # The method of Box and Muller makes two numbers of two.
    radius, angle = np.split(uniform(seed, epoch, samples, 2 * -(-count // 2), purpose=purpose), 2, axis=1)
    radius, angle = np.sqrt(-2.0 * np.log1p(-radius)), 2.0 * np.pi * angle
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]


def of_points(
    draw: Callable[..., np.ndarray],
    seed: int,
    epoch: int,
    samples: np.ndarray,
    num_points: Sequence[int],
    columns: int,
    *,
    purpose: int,
) -> np.ndarray:
    """Return `columns` numbers for each point of samples with `num_points` points, in one float64 array.

    Args:
        draw: `uniform` or `normal`; the numbers of a sample do not depend on the others.
        seed: seed of the run.
        epoch: epoch of the run.
        samples: the index of each sample in its split.
        num_points: points of each sample.
        columns: numbers for a point.
        purpose: what they are for.
    """
    parts = [
        draw(seed, epoch, samples[place : place + 1], size * columns, purpose=purpose).reshape(size, columns)
        for place, size in enumerate(num_points)
    ]
    return np.concatenate(parts)


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order of `count` samples in an epoch, int64."""
    return np.argsort(uniform(seed, epoch, np.arange(count), 1, purpose=ORDER)[:, 0], kind="stable")
