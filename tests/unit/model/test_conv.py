"""The quicker backward pass of a 3x3 convolution equals that of `nn.Conv2d`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dbbd_cli.model.conv import Conv3x3


def gradients(conv: nn.Conv2d, images: torch.Tensor, of_output: torch.Tensor) -> list[torch.Tensor | None]:
    conv.zero_grad(set_to_none=True)
    images = images.detach().requires_grad_()
    conv(images).backward(of_output)
    assert conv.bias is not None
    return [images.grad, conv.weight.grad, conv.bias.grad]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("num_images", "channels"), [(1, 3), (7, 3), (4, 8), (6, 9), (9, 32)])
def test_gradients_are_those_of_the_plain_layer(
    num_images: int, channels: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    torch.manual_seed(num_images)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    conv = Conv3x3(channels, 5).to(memory_format=memory_format)
    plain = nn.Conv2d(channels, 5, 3, padding=1).double()
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(num_images, channels, 6, 11).contiguous(memory_format=memory_format)
    of_output = torch.randn(num_images, 5, 6, 11).contiguous(memory_format=memory_format)
    assert torch.allclose(conv(images).double(), plain(images.double()), atol=1e-5)
    for ours, expected in zip(
        gradients(conv, images, of_output), gradients(plain, images.double(), of_output.double()), strict=True
    ):
        assert ours is not None
        assert expected is not None
        assert ours.shape == expected.shape
        assert torch.allclose(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_under_autocast_it_is_the_plain_layer() -> None:
    conv = Conv3x3(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(torch.randn(2, 3, 8, 8))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


def test_no_gradient_of_the_input_is_computed_where_none_is_wanted() -> None:
    images = torch.randn(2, 3, 8, 8)
    conv = Conv3x3(3, 4)
    conv(images).sum().backward()
    assert images.grad is None
    assert conv.weight.grad is not None


@pytest.mark.parametrize(
    ("capability", "channels", "own"),
    [("AVX2", 3, True), ("AVX2", 32, True), ("AVX512", 3, True), ("AVX512", 32, False), ("DEFAULT", 32, True)],
)
def test_the_own_backward_pass_is_left_where_the_library_has_a_quick_one(
    capability: str, channels: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    step = Conv3x3(channels, 5)(torch.randn(2, channels, 8, 8)).grad_fn
    assert (type(step).__name__ == "_ConvolutionBackward") == own
