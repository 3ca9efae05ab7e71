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
        images = _rotate(images, amounts[:, 0] * math.radians(rotation_degrees), math.radians(rotation_degrees))
    if brightness > 0:
        images = (images * (1.0 + brightness * amounts[:, 1, None, None, None])).clamp_(0.0, 1.0)
    if contrast > 0:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        factor = 1.0 + contrast * amounts[:, 2, None, None, None]
        images = (images * factor).add_(mean * (1.0 - factor)).clamp_(0.0, 1.0)
    return images


def _rotate(images: torch.Tensor, angles: torch.Tensor, largest: float) -> torch.Tensor:
    """Rotates square images about their centres by angles `(B,)` in radians, of which none is beyond ± `largest`.

    By three shears, first of rows, then of columns, then of rows (Paeth, "A fast algorithm for general raster
    rotation", 1986): each is a shift of whole lines, many times quicker than finding four neighbours for each pixel.
    """
    if largest > math.pi / 4:
        quarters = (angles / (math.pi / 2)).round()
        angles, largest = angles - quarters * (math.pi / 2), math.pi / 4
        which = (quarters.long() % 4)[:, None, None, None]
        turned = [torch.where(which == number, images.rot90(number, (2, 3)), 0.0) for number in range(4)]
        images = torch.stack(turned).sum(0)
    half = (images.shape[-1] - 1) / 2
    rows, columns = -torch.tan(angles / 2), torch.sin(angles)
    # How far pixels move at most in the last shear, in the one before it, and in the first.
    last = math.ceil(math.tan(largest / 2) * half) + 1
    middle = math.ceil(math.sin(largest) * (half + last)) + 1
    first = math.ceil(math.tan(largest / 2) * (half + middle)) + 1
    images = F.pad(images, (first + last, first + last, middle, middle), mode="replicate")
    images = _shear(images, rows, first)
    images = _shear(images.transpose(2, 3), columns, middle)
    return _shear(images.transpose(2, 3), rows, last)


def _shear(images: torch.Tensor, slopes: torch.Tensor, margin: int) -> torch.Tensor:
    """Shifts each row by the slope `(B,)` of its image times its distance from the middle, linearly between pixels.

    Args:
        images: `(B, C, H, W)`.
        slopes: pixels per row.
        margin: the largest shift; so much is taken off on the left and on the right.
    """
    num_images, channels, height, width = images.shape
    distance = torch.arange(height, device=images.device) - (height - 1) / 2
    shift = (slopes[:, None, None] * distance).expand(-1, channels, -1).reshape(-1)
    whole = shift.floor()
    start = torch.arange(len(shift), device=images.device) * width + margin + whole.long()
    kept = width - 2 * margin
    # Every place where a row could start, as a matrix whose rows overlap: choosing its rows copies whole lines.
    flat = images.contiguous().view(-1)
    lines = flat.as_strided((len(flat) - kept, kept + 1), (1, 1)).index_select(0, start)
    between = (shift - whole)[:, None]
    return torch.lerp(lines[:, :-1], lines[:, 1:], between).view(num_images, channels, height, kept)
