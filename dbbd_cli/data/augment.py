"""Random changes to a batch of images, made on whatever device the batch is on."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from dbbd_cli.data.random_numbers import AUGMENTATION, uniform

# B = batch size, C = channels, S = image_size.


def augment(
    images: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    samples: torch.Tensor,
    rotation_degrees: float,
    brightness: float,
    contrast: float,
) -> torch.Tensor:
    """Rotates images and changes their brightness and contrast, each by its own amount.

    What a rotation brings in from outside is filled with the nearest edge: the quiet zone of a QR code stays white.

    Args:
        images: `(B, C, S, S)`, values in [0, 1].
        seed: seed of the run.
        epoch: epoch of the run.
        samples: `(B,)`, index of each image in its split, on the CPU.
        rotation_degrees: the angle is uniform in ± this.
        brightness: the factor on the values is uniform in 1 ± this.
        contrast: the factor on the distance from the image's mean is uniform in 1 ± this.

    Returns:
        Images of the same shape, values in [0, 1].
    """
    draws = uniform(seed, epoch, samples.numpy(), 3, purpose=AUGMENTATION).astype(np.float32) * 2.0 - 1.0
    amounts = torch.from_numpy(draws).to(images.device, non_blocking=True)
    if rotation_degrees > 0:
        images = _rotate(images, amounts[:, 0] * math.radians(rotation_degrees))
    if brightness > 0:
        images = (images * (1.0 + brightness * amounts[:, 1, None, None, None])).clamp_(0.0, 1.0)
    if contrast > 0:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        factor = 1.0 + contrast * amounts[:, 2, None, None, None]
        images = torch.lerp(mean, images, factor).clamp_(0.0, 1.0)
    return images


def _rotate(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotates square images about their centres by angles `(B,)` in radians, bilinearly."""
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    # Clamped to the centres of the outermost pixels: what padding_mode="border" does, which not every device has.
    edge = 1.0 - 1.0 / images.shape[-1]
    return F.grid_sample(images, grid.clamp(-edge, edge), mode="bilinear", padding_mode="zeros", align_corners=False)
