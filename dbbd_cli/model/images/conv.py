"""Convolution, max-pooling and ReLU with a joint backward pass that computes weight gradients as matrix products.

The reason is speed on CPUs without AVX-512: the weight gradients of the three convolutions of `qr_cnn` (batch 32, one
core with AVX2) take 139, 340 and 240 ms instead of 180, 649 and 337 ms, because oneDNN computes them from channels-last
tensors at a seventh to a half of the speed of a matrix product. With AVX-512, oneDNN is fast except for inputs of few
channels. The forward pass and the gradient of the input are oneDNN's.

Legend: B images, C input channels, K output channels, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_IMAGES_AT_ONCE = 4
"""Copies of this many images fit into the processor's cache and keep a few threads busy."""
_FEW_CHANNELS = 8


class ConvBlock(nn.Conv2d):
    """3x3 convolution with padding 1, 2x2 max-pooling and ReLU, with a faster backward pass on a CPU in fp32.

    Args:
        in_channels: C.
        out_channels: K.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns `(B, K, H // 2, W // 2)` of images `(B, C, H, W)`."""
        if is_plain(images) and torch.is_grad_enabled() and (self.in_channels <= _FEW_CHANNELS or not _has_avx512()):
            output: torch.Tensor = _Block.apply(images, self.weight, self.bias)
            return output
        # Max-pooling and ReLU commute; pooling first leaves a quarter of the values for ReLU.
        return F.relu(F.max_pool2d(super().forward(images), 2))


def is_plain(values: torch.Tensor) -> bool:
    """Whether computations with these values run on a CPU in fp32, where the faster passes apply."""
    return values.device.type == "cpu" and values.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        convolved = F.conv2d(images, weight, bias, padding=1)
        pooled, indices = F.max_pool2d(convolved, 2, return_indices=True)
        output = pooled.relu_()
        ctx.save_for_backward(images, weight, output, indices)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        images, weight, output, indices = ctx.saved_tensors
        grad_pooled = torch.ops.aten.threshold_backward(grad_output, output, 0)
        # Only the shape and memory format of this tensor are used.
        convolved = torch.empty(
            (images.shape[0], weight.shape[0], *images.shape[2:]), memory_format=torch.channels_last
        )
        grad_convolved = torch.ops.aten.max_pool2d_with_indices_backward(
            grad_pooled, convolved, (2, 2), (2, 2), (0, 0), (1, 1), False, indices
        )
        grad_images = None
        if ctx.needs_input_grad[0]:
            grad_images = torch.ops.aten.convolution_backward(
                grad_convolved, images, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        grad_weight = weight_gradient(images, grad_convolved) if ctx.needs_input_grad[1] else None
        # Each value of `grad_pooled` goes to one position: the sum is the same, over a quarter of the values.
        return grad_images, grad_weight, grad_pooled.sum((0, 2, 3))


def weight_gradient(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of the weights, `(K, C, 3, 3)`.

    Args:
        images: `(B, C, H, W)`.
        gradient: gradient of the output, `(B, K, H, W)`; fastest with channels last.
    """
    of_group = _from_planes if images.shape[1] <= _FEW_CHANNELS else _from_rows
    first, *others = zip(images.split(_IMAGES_AT_ONCE), gradient.split(_IMAGES_AT_ONCE), strict=True)
    total = of_group(*first)
    for group in others:
        total += of_group(*group)
    return total


def _from_planes(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """For few channels: one product with all nine shifted copies of each channel."""
    num_images, channels, height, width = images.shape
    padded = F.pad(images.contiguous(), (1, 1, 1, 1))
    by_image, by_channel, by_row, by_pixel = padded.stride()
    shape = (num_images, channels, 3, 3, height, width)
    shifted = padded.as_strided(shape, (by_image, by_channel, by_row, by_pixel, by_row, by_pixel))
    product = shifted.reshape(num_images, channels * 9, height * width) @ gradient.permute(0, 2, 3, 1).flatten(1, 2)
    return product.sum(0).view(channels, 3, 3, -1).permute(3, 0, 1, 2)


def _from_rows(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Three products, one per kernel row, with three neighboring pixels in each matrix row."""
    num_images, channels, height, width = images.shape
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    by_image, by_row, by_pixel, _ = padded.stride()
    triples = padded.as_strided((num_images, height + 2, width, 3 * channels), (by_image, by_row, by_pixel, 1))
    triples = triples.contiguous()
    columns = gradient.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)
    rows = [columns @ triples[:, row : row + height].flatten(1, 2) for row in range(3)]
    return torch.stack([row.sum(0) for row in rows], dim=1).view(-1, 3, 3, channels).permute(0, 3, 1, 2)
