"""Random changes of training scenes, from seed, epoch and scene alone.

Legend: B scenes of the batch, N points of all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, COLOR, DROPOUT, JITTER, of_points, uniform
from dbbd_cli.data.scenes.views import point_noise, turned
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

    def for_points(values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
        return tensor.repeat_interleave(num_points, dim=0, output_size=len(coord))

    draws = uniform(seed, epoch, samples, 3, purpose=AUGMENTATION)
    angles = (draws[:, 0] * 2 - 1) * math.radians(settings.rotation_degrees)
    mirror = np.where(settings.flip & (draws[:, 1] < 0.5), -1.0, 1.0)
    cos, sin, sign = for_points(np.stack([np.cos(angles), np.sin(angles), mirror], axis=1)).unbind(1)
    factor = for_points(1 + settings.scale * (draws[:, 2:] * 2 - 1))
    coord, normal = turned(coord, cos, sin, sign) * factor, turned(normal, cos, sin, sign)
    if settings.jitter > 0:
        noise = point_noise(coord, num_points, 3, seed=seed, epoch=epoch, samples=samples, purpose=JITTER)
        coord = coord + settings.jitter * noise
    if color is not None and settings.color_jitter > 0:
        draws = (uniform(seed, epoch, samples, 6, purpose=COLOR) * 2 - 1) * settings.color_jitter
        color = color.float() * for_points(1 + draws[:, :3]) + for_points(255 / 2 * draws[:, 3:])
        color = color.clamp(0, 255)
    is_hidden = None
    if settings.point_dropout > 0:
        draws = of_points(uniform, seed, epoch, samples, num_points.tolist(), 1, purpose=DROPOUT)[:, 0]
        is_hidden = torch.from_numpy(draws < settings.point_dropout).to(device)
    return Augmented(coord, normal, color, is_hidden)
