"""`qr_cnn` has the size, the keys and the output of its first implementation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from dbbd_cli.engine.efficiency import count_multiply_adds
from dbbd_cli.engine.runtime import count_parameters, size_mb
from dbbd_cli.model.images.qr_cnn import QrCnn


def test_parameters_size_and_arithmetic_of_qr_cnn() -> None:
    with torch.device("meta"):
        network = QrCnn(num_classes=2)
        assert count_parameters(network) == 51_539_906
        assert f"{size_mb(network):.2f}" == "196.61"
        multiply_adds = count_multiply_adds(network, torch.empty(1, 3, 224, 224))
    assert round(multiply_adds / 1e6, 1) == 557.2


def test_qr_cnn_computes_what_the_first_implementation_did() -> None:
    network = QrCnn(num_classes=3, image_size=32).eval()
    assert list(network.state_dict()) == [
        f"{layer}.{kind}" for layer in ("conv1", "conv2", "conv3", "fc1", "fc2", "fc3") for kind in ("weight", "bias")
    ]
    x = torch.randn(2, 3, 32, 32)
    y = x
    for conv in (network.conv1, network.conv2, network.conv3):
        y = F.max_pool2d(F.relu(F.conv2d(y, conv.weight, conv.bias, padding=1)), 2)  # ReLU first, as it was
    y = F.relu(F.linear(y.view(2, -1), network.fc1.weight, network.fc1.bias))
    expected = network.fc3(F.relu(network.fc2(y)))
    assert torch.allclose(network(x), expected, atol=1e-6)
    channels_last = network(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(channels_last, expected, atol=1e-5)
