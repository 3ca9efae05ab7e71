"""Principal components of point features: for smaller features, and as colors.

Legend: N points, D channels of features.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_CHUNK = 1 << 16
"""Points that are converted to float64 at once."""


def principal_axes(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean `(D,)` of features `(N, D)` and their first `count` principal axes `(D, count)`, at most D, float64.

    The sign of an axis is arbitrary; it is fixed so that equal features give equal axes.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((features.shape[1], features.shape[1]))
    for chunk in _chunks(features):
        centered = chunk.astype(np.float64) - mean
        scatter += centered.T @ centered
    axes = np.linalg.eigh(scatter)[1][:, ::-1][:, :count]
    return mean, axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])


def project(features: np.ndarray, mean: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """The components `(N, count)` of features `(N, D)`, float64."""
    return np.concatenate([(chunk.astype(np.float64) - mean) @ axes for chunk in _chunks(features)])


def principal_colors(features: np.ndarray) -> np.ndarray:
    """The first three principal components of features `(N, D)` as red, green and blue, `(N, 3)` uint8.

    Each is scaled so that 1% of the points are at 0, and 1% at 255.
    """
    values = project(features, *principal_axes(features, 3))
    values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))
    low, high = np.percentile(values, [1, 99], axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _chunks(features: np.ndarray) -> Iterable[np.ndarray]:
    return (features[start : start + _CHUNK] for start in range(0, len(features), _CHUNK))
