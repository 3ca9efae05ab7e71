"""The faster backward pass of convolution, max-pooling and ReLU equals that of PyTorch's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dbbd_cli.model.images.conv import ConvBlock


def plain_block(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(F.relu(F.conv2d(images, conv.weight, conv.bias, padding=1)), 2)


def gradients(conv: nn.Conv2d, images: torch.Tensor, *, ours: bool) -> list[torch.Tensor]:
    conv.zero_grad(set_to_none=True)
    images = images.detach().requires_grad_()
    output = conv(images) if ours else plain_block(conv, images)
    # Differs from place to place, and is the same for both.
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape))
    assert conv.bias is not None
    found = [images.grad, conv.weight.grad, conv.bias.grad]
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("num_images", "channels"), [(1, 3), (7, 3), (4, 8), (6, 9), (9, 32)])
def test_gradients_are_those_of_the_plain_layers(
    num_images: int, channels: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    torch.manual_seed(num_images)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    conv = ConvBlock(channels, 5).to(memory_format=memory_format)
    plain = nn.Conv2d(channels, 5, 3, padding=1).double()
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(num_images, channels, 6, 11).contiguous(memory_format=memory_format)
    assert torch.allclose(conv(images).double(), plain_block(plain, images.double()), atol=1e-5)
    ours, expected = gradients(conv, images, ours=True), gradients(plain, images.double(), ours=False)
    assert len(ours) == len(expected) == 3
    for gradient, wanted in zip(ours, expected, strict=True):
        assert gradient.shape == wanted.shape
        assert torch.allclose(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


def test_uniform_areas_pass_their_gradient_to_one_position() -> None:
    torch.manual_seed(0)
    conv = ConvBlock(3, 5)
    images = torch.ones(2, 3, 8, 8)  # all places of a window are equal, as in most of a QR code
    for gradient, wanted in zip(gradients(conv, images, ours=True), gradients(conv, images, ours=False), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-5)


def test_without_gradients_the_output_is_the_same() -> None:
    conv, images = ConvBlock(3, 5), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(conv(images), plain_block(conv, images), atol=1e-6)  # outputs are of size 1


def test_under_autocast_it_is_the_plain_layer() -> None:
    conv = ConvBlock(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(torch.randn(2, 3, 8, 8))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_only_required_gradients_are_computed(frozen: str) -> None:
    conv, images = ConvBlock(3, 4), torch.randn(2, 3, 8, 8)
    conv.weight.requires_grad_(frozen != "weight")
    images.requires_grad_(frozen != "input")
    with FlopCounterMode(display=False) as counter:
        conv(images).sum().backward()
    forward = 2 * (2 * 8 * 8) * (3 * 3 * 3) * 4
    assert counter.get_total_flops() == 2 * forward


def test_an_empty_batch_has_no_gradient() -> None:
    conv = ConvBlock(3, 4)
    conv(torch.empty(0, 3, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad.any()


@pytest.mark.parametrize(
    ("capability", "channels", "own"),
    [("AVX2", 3, True), ("AVX2", 32, True), ("AVX512", 3, True), ("AVX512", 32, False), ("DEFAULT", 32, True)],
)
def test_our_backward_pass_is_not_used_where_the_library_is_fast(
    capability: str, channels: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    step = ConvBlock(channels, 5)(torch.randn(2, channels, 8, 8)).grad_fn
    assert (type(step).__name__ == "_BlockBackward") == own
