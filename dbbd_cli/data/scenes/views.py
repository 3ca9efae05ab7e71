"""Make the two random views of each scene: rotated and scaled, on the device of the batch.

Legend: B scenes of the batch, N points of all of them.
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
        normal: `(N, 3)`, rotated with the coordinates, or None.
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
    """Rotate each scene about the vertical axis and scale it, independently for the two views.

    Args:
        coord: `(N, 3)`, scene by scene.
        normal: `(N, 3)`, or None if not needed.
        num_points: `(B,)`, points of each scene, on the device of `coord`.
        seed: seed of the run.
        epoch: epoch of the run; 0 gives the fixed views of validation.
        samples: `(B,)`, index of each scene in its split.
        rotation_degrees: angles are uniform in ± this.
        scale: factors are uniform in 1 ± this.
    """
    draws = uniform(seed, epoch, samples, 4, purpose=AUGMENTATION) * 2.0 - 1.0
    angles, factors = draws[:, :2] * math.radians(rotation_degrees), 1.0 + scale * draws[:, 2:]
    rotations = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles), factors], axis=2).astype(np.float32))
    # (N, 2, 3): cosine, sine and factor of both views for each point.
    amounts = rotations.to(coord.device, non_blocking=True).repeat_interleave(num_points, dim=0, output_size=len(coord))
    first, second = (
        View(
            _rotated(coord, *each[:, :2].unbind(1)) * each[:, 2:],
            None if normal is None else _rotated(normal, *each[:, :2].unbind(1)),
        )
        for each in amounts.unbind(1)
    )
    return first, second


def _rotated(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate vectors `(N, 3)` about the vertical axis by angles with the given cosines and sines, `(N,)`."""
    x, y, z = vectors.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)
