"""A small image classifier of our own."""

from __future__ import annotations

import torch
from torch import nn


class TinyCnn(nn.Module):
    """Two convolutions and a linear layer. Maps normalized images `(B, 3, S, S)` to logits `(B, num_classes)`."""

    def __init__(self, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.layers(images)
