"""Augment a batch of images on its device.

Written by hand because it is four times as fast as `grid_sample` on a CPU: an image of 224 x 224 pixels is rotated and
adjusted in 0.7 ms instead of 3 ms (with one channel in 0.33 ms), on one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, uniform

# B = batch size, n = images of one call, C = channels, S = image size, H x W = height and width of planes.


class Augmentation:
    """Rotates each image and changes its brightness and contrast by random amounts.

    The amounts of a batch are computed once, here; `apply` can then process a few images at a time. Pixels from outside
    a rotated image are those of the nearest edge, so that the quiet zone of a QR code stays white.

    Args:
        seed: seed of the run.
        epoch: epoch of the run.
        samples: `(B,)`, index of each image in its split, on the CPU.
        shape: C and S.
        device: where the images are.
        rotation_degrees: the angle is uniform in ± this.
        brightness: the factor on the values is uniform in 1 ± this, at most 1.
        contrast: the factor on the distance from the image's mean is uniform in 1 ± this.
    """

    def __init__(
        self,
        *,
        seed: int,
        epoch: int,
        samples: torch.Tensor,
        shape: tuple[int, int],
        device: torch.device,
        rotation_degrees: float,
        brightness: float,
        contrast: float,
    ) -> None:
        draws = uniform(seed, epoch, samples.numpy(), 3, purpose=AUGMENTATION).astype(np.float32) * 2.0 - 1.0
        amounts = torch.from_numpy(draws).to(device, non_blocking=True)
        largest = math.radians(rotation_degrees)
        self._rotation = _Rotation(amounts[:, 0] * largest, largest, *shape) if largest > 0 else None
        self._brightness = (1.0 + brightness * amounts[:, 1, None, None, None]) / 255.0
        self._contrast = 1.0 + contrast * amounts[:, 2, None, None, None] if contrast > 0 else None

    def apply(self, pixels: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Augment images of the batch.

        Args:
            pixels: `(n, C, S, S)`, values in [0, 255].
            first: position of the first of them in the batch.

        Returns:
            float32 of the same shape, values in [0, 1].
        """
        part = slice(first, first + len(pixels))
        images = pixels.to(torch.float32, copy=True) if self._rotation is None else self._rotation.apply(pixels, first)
        images.mul_(self._brightness[part]).clamp_(max=1.0)
        if self._contrast is not None:
            factor = self._contrast[part]
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images.mul_(factor).add_(mean * (1.0 - factor)).clamp_(0.0, 1.0)
        return images


class _Rotation:
    """Rotates square images about their centers by angles `(B,)` in radians, all within ± `largest`.

    Uses three shears, of rows, columns and rows (Paeth, "A fast algorithm for general raster rotation", 1986): each
    shifts whole lines, which is many times faster than interpolating between four neighbors of each pixel.
    """

    def __init__(self, angles: torch.Tensor, largest: float, channels: int, size: int) -> None:
        self._quarters = None
        if largest > math.pi / 4:
            quarters = (angles / (math.pi / 2)).round()
            angles, largest = angles - quarters * (math.pi / 2), math.pi / 4
            self._quarters = (quarters.long() % 4)[:, None, None, None]
        half = (size - 1) / 2
        rows, columns = -torch.tan(angles / 2), torch.sin(angles)
        # Maximum shift of pixels in the last shear, the one before it, and the first.
        last = math.ceil(math.tan(largest / 2) * half) + 1
        middle = math.ceil(math.sin(largest) * (half + last)) + 1
        first = math.ceil(math.tan(largest / 2) * (half + middle)) + 1
        self._padding = first + last
        height, width = size + 2 * middle, size + 2 * last
        self._shears = (
            _Shear(rows, channels, size, width + 2 * first, first, pad_rows=middle),
            _Shear(columns, channels, width, height, middle),
            _Shear(rows, channels, size, width, last),
        )

    def apply(self, images: torch.Tensor, first: int) -> torch.Tensor:
        if self._quarters is not None:
            which = self._quarters[first : first + len(images)]
            rotated = [torch.where(which == number, images.rot90(number, (2, 3)), 0) for number in range(4)]
            images = torch.stack(rotated).sum(0, dtype=images.dtype)
        left, right = (images[..., edge].expand(-1, -1, -1, self._padding) for edge in (slice(1), slice(-1, None)))
        row_shear, column_shear, last_row_shear = self._shears
        images = row_shear.apply(torch.cat([left, images, right], dim=3), first)
        images = column_shear.apply(images.transpose(2, 3), first)
        return last_row_shear.apply(images.transpose(2, 3), first)


class _Shear:
    """Shifts each row by the slope of its image times its distance from the middle, with linear interpolation.

    Args:
        slopes: pixels per row, `(B,)`.
        channels: C.
        height: H.
        width: W.
        margin: the largest shift, and the number of columns removed on the left and on the right.
        pad_rows: number of rows added above and below, copies of the first and last row.
    """

    def __init__(
        self, slopes: torch.Tensor, channels: int, height: int, width: int, margin: int, pad_rows: int = 0
    ) -> None:
        row = torch.arange(-pad_rows, height + pad_rows, device=slopes.device)
        shift = (slopes[:, None] * (row - (height - 1) / 2)).repeat_interleave(channels, dim=0)
        whole = shift.floor()
        plane = torch.arange(len(shift), device=slopes.device)[:, None] * (height * width)
        self._start = plane + (row.clamp(0, height - 1) * width + margin) + whole.long()
        self._fraction = shift - whole
        self._size, self._kept = height * width, width - 2 * margin

    def apply(self, images: torch.Tensor, first: int) -> torch.Tensor:
        """Shear images `(n, C, H, W)`, those of the batch from `first` on; returns float32."""
        num_images, channels, _, _ = images.shape
        planes = slice(first * channels, (first + num_images) * channels)
        start = self._start[planes].reshape(-1) - planes.start * self._size
        # A matrix of overlapping rows, one for each possible start: selecting its rows copies whole lines.
        flat = images.contiguous().view(-1)
        lines = flat.as_strided((len(flat) - self._kept, self._kept + 1), (1, 1)).index_select(0, start).float()
        sheared = torch.lerp(lines[:, :-1], lines[:, 1:], self._fraction[planes].reshape(-1, 1))
        return sheared.view(num_images, channels, -1, self._kept)
