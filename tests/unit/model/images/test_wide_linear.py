"""A linear layer that computes its products in blocks equals `nn.Linear`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dbbd_cli.model.images.wide_linear import WideLinear


@pytest.mark.parametrize(("samples", "inputs"), [(1, 1), (3, 1023), (5, 1024), (2, 1025), (33, 4100)])
def test_output_and_gradients_are_those_of_the_plain_layer(samples: int, inputs: int) -> None:
    torch.manual_seed(inputs)
    ours, plain = WideLinear(inputs, 7), nn.Linear(inputs, 7).double()
    plain.load_state_dict(ours.state_dict())
    values = torch.randn(samples, inputs, requires_grad=True)
    wanted = values.detach().double().requires_grad_()
    output, expected = ours(values), plain(wanted)
    assert output.is_contiguous()  # what a dropout draws for a value depends on where that lies
    assert torch.allclose(output.double(), expected, atol=1e-5)
    of_output = torch.randn(samples, 7)
    output.backward(of_output)
    expected.backward(of_output.double())
    pairs = zip([values, ours.weight, ours.bias], [wanted, plain.weight, plain.bias], strict=True)
    for gradient, other in ((mine.grad, theirs.grad) for mine, theirs in pairs):
        assert gradient is not None
        assert other is not None
        assert gradient.shape == other.shape
        assert torch.allclose(gradient.double(), other, atol=1e-4)


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_only_required_gradients_are_computed(frozen: str) -> None:
    layer, values = WideLinear(2000, 3), torch.randn(2, 2000)
    layer.weight.requires_grad_(frozen != "weight")
    values.requires_grad_(frozen != "input")
    with FlopCounterMode(display=False) as counter:
        layer(values).sum().backward()
    forward = 2 * 2 * 2000 * 3
    assert counter.get_total_flops() == 2 * forward


def test_products_are_computed_in_blocks() -> None:
    layer, values = WideLinear(2000, 3), torch.randn(2, 2000)
    output = layer(values)
    assert type(output.grad_fn).__name__ == "_ProductBackward"
    with torch.no_grad():
        assert torch.equal(layer(values), output)
    assert type(layer.double()(values.double()).grad_fn).__name__ == "AddmmBackward0"


def test_under_autocast_it_is_the_plain_layer() -> None:
    layer = WideLinear(2000, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.randn(2, 2000))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
