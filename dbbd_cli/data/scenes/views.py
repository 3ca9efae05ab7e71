"""Make the random views of each scene: rotated, mirrored, scaled and jittered, on the device of the batch.

Legend: B scenes of the batch, N points of all of them, V views.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, JITTER, of_points, uniform
from dbbd_cli.data.random_numbers import normal as standard_normal


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
    flip: bool = False,
    jitter: float = 0.0,
    num_views: int = 2,
) -> tuple[View, ...]:
    """Rotate each scene about the vertical axis and scale it, independently for each view.

    Args:
        coord: `(N, 3)`, scene by scene.
        normal: `(N, 3)`, or None if not needed.
        num_points: `(B,)`, points of each scene, on the device of `coord`.
        seed: seed of the run.
        epoch: epoch of the run; 0 gives the fixed views of validation.
        samples: `(B,)`, index of each scene in its split.
        rotation_degrees: angles are uniform in ± this.
        scale: factors are uniform in 1 ± this.
        flip: whether to mirror every second view, chosen at random, before it is rotated.
        jitter: standard deviation of the noise added to each coordinate.
        num_views: number of views.
    """
    pairs = -(-num_views // 2)
    draws = uniform(seed, epoch, samples, 6 * pairs, purpose=AUGMENTATION) * 2.0 - 1.0
    # Angle, factor and sign of each view; the numbers of a view do not depend on how many there are.
    angles, factors, signs = (
        part.reshape(len(samples), -1) for part in draws.reshape(-1, pairs, 3, 2).transpose(2, 0, 1, 3)
    )
    angles, factors = angles[:, :num_views] * math.radians(rotation_degrees), 1.0 + scale * factors[:, :num_views]
    amounts = [factors, np.cos(angles), np.sin(angles)]
    if flip:
        amounts.append(np.where(signs[:, :num_views] < 0, -1.0, 1.0))
    # (N, V, 3 or 4): factor, cosine, sine and sign of each view for each point.
    of_each = torch.from_numpy(np.stack(amounts, axis=2).astype(np.float32)).to(coord.device, non_blocking=True)
    of_each = of_each.repeat_interleave(num_points, dim=0, output_size=len(coord))
    made = []
    for each in of_each.unbind(1):
        factor, *turn = each.unbind(1)
        moved = turned(coord, *turn) * factor[:, None]
        made.append(View(moved, None if normal is None else turned(normal, *turn)))
    if jitter > 0:
        width = 3 * num_views
        noise = jitter * point_noise(coord, num_points, width, seed=seed, epoch=epoch, samples=samples, purpose=JITTER)
        made = [View(view.coord + part, view.normal) for view, part in zip(made, noise.split(3, dim=1), strict=True)]
    return tuple(made)


def turned(
    vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: torch.Tensor | None = None
) -> torch.Tensor:
    """Rotate vectors `(N, 3)` about the vertical axis, after mirroring them along the first.

    Args:
        vectors: coordinates or normals.
        cos: `(N,)`, cosine of each angle.
        sin: `(N,)`, sine of each angle.
        sign: `(N,)`, -1 to mirror a vector, 1 not to; None: none are mirrored.
    """
    x, y, z = vectors.unbind(1)
    if sign is not None:
        x = sign * x
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1)


def point_noise(
    like: torch.Tensor,
    num_points: torch.Tensor,
    columns: int,
    *,
    seed: int,
    epoch: int,
    samples: np.ndarray,
    purpose: int,
) -> torch.Tensor:
    """Noise of standard deviation 1 for each point, `(N, columns)` float32, on the device of `like`."""
    noise = of_points(standard_normal, seed, epoch, samples, num_points.tolist(), columns, purpose=purpose)
    return torch.from_numpy(noise.astype(np.float32)).to(like.device, non_blocking=True)
