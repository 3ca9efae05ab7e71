"""The two views of a scene: turned and scaled, each in its own way, on whatever device the batch is on.

Legend: B scenes, N points of all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, uniform


class View(NamedTuple):
    """One view of the scenes of a batch.

    Attributes:
        coord: `(N, 3)`.
        normal: `(N, 3)`, turned with the coordinates, or None.
    """

    coord: torch.Tensor
    normal: torch.Tensor | None


def make_views(
    coord: torch.Tensor,
    normal: torch.Tensor | None,
    num_points: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    samples: np.ndarray,
    rotation_degrees: float,
    scale: float,
) -> tuple[View, View]:
    """Turns each scene about the vertical and scales it, for each view by other amounts.

    Args:
        coord: `(N, 3)`, scene after scene.
        normal: `(N, 3)`, or None where they are not wanted.
        num_points: `(B,)` points of each scene, on the device of `coord`.
        seed: seed of the run.
        epoch: epoch of the run; 0 makes the fixed views of validation.
        samples: `(B,)` index of each scene in its split.
        rotation_degrees: the angle is uniform in ± this.
        scale: the factor is uniform in 1 ± this.
    """
    draws = uniform(seed, epoch, samples, 4, purpose=AUGMENTATION) * 2.0 - 1.0
    angles, factors = draws[:, :2] * math.radians(rotation_degrees), 1.0 + scale * draws[:, 2:]
    turns = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles), factors], axis=2).astype(np.float32))
    # (N, 2, 3): the amounts of both views for each point.
    amounts = turns.to(coord.device, non_blocking=True).repeat_interleave(num_points, dim=0, output_size=len(coord))
    first, second = (
        View(
            _turned(coord, *each[:, :2].unbind(1)) * each[:, 2:],
            None if normal is None else _turned(normal, *each[:, :2].unbind(1)),
        )
        for each in amounts.unbind(1)
    )
    return first, second


def _turned(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Vectors `(N, 3)`, turned about the vertical by angles with the given `(N,)` cosines and sines."""
    x, y, z = vectors.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)
