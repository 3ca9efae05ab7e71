"""Random changes of training scenes, from seed, epoch and scene alone.

Legend: B scenes of the batch, N points of all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, COLOR, DROPOUT, JITTER, uniform
from dbbd_cli.tasks.segmentation.config import AugmentationConfig


class Augmented(NamedTuple):
    """The points of a batch after augmentation.

    Attributes:
        coord: `(N, 3)`.
        normal: `(N, 3)`.
        color: `(N, 3)`, 0 to 255, or None.
        is_hidden: `(N,)` bool, points whose features are hidden; None if none are.
    """

    coord: torch.Tensor
    normal: torch.Tensor
    color: torch.Tensor | None
    is_hidden: torch.Tensor | None


def augment(
    coord: torch.Tensor,
    normal: torch.Tensor,
    color: torch.Tensor | None,
    num_points: torch.Tensor,
    settings: AugmentationConfig,
    *,
    seed: int,
    epoch: int,
    samples: np.ndarray,
) -> Augmented:
    """Rotate each scene about the vertical axis, mirror and scale it, add noise, change colors and hide points.

    Args:
        coord: `(N, 3)`, scene by scene.
        normal: `(N, 3)`.
        color: `(N, 3)` uint8, or None if not needed.
        num_points: `(B,)`, points of each scene, on the device of `coord`.
        settings: what to change, and how much.
        seed: seed of the run.
        epoch: epoch of the run.
        samples: `(B,)`, index of each scene in its split.
    """
    device = coord.device

    def of_points(values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
        return tensor.repeat_interleave(num_points, dim=0, output_size=len(coord))

    def per_point(purpose: int, count: int) -> torch.Tensor:
        sizes = num_points.tolist()
        draws = [
            uniform(seed, epoch, samples[place : place + 1], size * count, purpose=purpose)[0].reshape(size, count)
            for place, size in enumerate(sizes)
        ]
        return torch.from_numpy(np.concatenate(draws)).to(device)

    draws = uniform(seed, epoch, samples, 3, purpose=AUGMENTATION)
    angles = (draws[:, 0] * 2 - 1) * math.radians(settings.rotation_degrees)
    mirror = np.where(settings.flip & (draws[:, 1] < 0.5), -1.0, 1.0)
    cos, sin = np.cos(angles), np.sin(angles)
    # A rotation about the vertical axis after mirroring along the first.
    turned = of_points(np.stack([mirror * cos, -sin, mirror * sin, cos], axis=1))
    factor = of_points(1 + settings.scale * (draws[:, 2:] * 2 - 1))
    coord, normal = _turned(coord, turned) * factor, _turned(normal, turned)
    if settings.jitter > 0:
        # The normal distribution by the method of Box and Muller.
        one, two = per_point(JITTER, 6).split(3, dim=1)
        noise = (-2 * torch.log1p(-one)).sqrt() * torch.cos(2 * math.pi * two)
        coord = coord + settings.jitter * noise.float()
    if color is not None and settings.color_jitter > 0:
        draws = (uniform(seed, epoch, samples, 6, purpose=COLOR) * 2 - 1) * settings.color_jitter
        color = color.float() * of_points(1 + draws[:, :3]) + of_points(255 / 2 * draws[:, 3:])
        color = color.clamp(0, 255)
    is_hidden = None
    if settings.point_dropout > 0:
        is_hidden = per_point(DROPOUT, 1)[:, 0] < settings.point_dropout
    return Augmented(coord, normal, color, is_hidden)


def _turned(vectors: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Vectors `(N, 3)` times the matrix `(N, 4)` of the first two axes, row by row."""
    x, y, z = vectors.unbind(1)
    a, b, c, d = matrix.unbind(1)
    return torch.stack([a * x + b * y, c * x + d * y, z], dim=1)
