"""The CNN of the first quishing experiments: three convolutions and three linear layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.images.conv import ConvBlock
from dbbd_cli.model.images.wide_linear import WideLinear

# B = batch size, S = image_size; tensors are (B, channels, height, width).


class QrCnn(nn.Module):
    """Three blocks of 3x3 convolution, max-pool and ReLU, then a perceptron with dropout.

    The attribute names are the state-dict keys of the first implementation, so that its checkpoints load.
    With 2 classes and 224 x 224 pixels it has 51,539,906 parameters.

    Args:
        num_classes: number of logits.
        image_size: height and width of the input in pixels, a multiple of 8.
        dropout: dropout probability after each hidden linear layer.
    """

    def __init__(self, *, num_classes: int, image_size: int = 224, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 32)
        self.conv2 = ConvBlock(32, 64)
        self.conv3 = ConvBlock(64, 128)
        self.fc1 = WideLinear(128 * (image_size // 8) ** 2, 512)
        self.fc2 = nn.Linear(512, 128)
        self.fc3 = nn.Linear(128, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits `(B, num_classes)` of normalized images `(B, 3, S, S)`."""
        x = torch.flatten(self.conv3(self.conv2(self.conv1(images))), 1)
        x = self.dropout(F.relu(self.fc1(x)))
        x = self.dropout(F.relu(self.fc2(x)))
        return self.fc3(x)
