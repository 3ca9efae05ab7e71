"""Encode numbers piecewise linearly between quantiles of the training data.

After Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning" (2022). N = samples,
F = features, P = pieces.
"""

from __future__ import annotations

import torch
from torch import nn

_UNREACHABLE = 1e9
_MIN_DEVIATION = 0.05
_CHUNK = 1 << 15


def encode_pieces(features: torch.Tensor, lower: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """The share of each piece that lies below the feature: `(N, F)` to `(N, F, P)`.

    Args:
        features: `(N, F)`.
        lower: `(F, P)`, where each piece begins.
        width: `(F, P)`.
    """
    return ((features[:, :, None] - lower) / width).clamp(0, 1)


def fit_pieces(features: torch.Tensor, num_pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose pieces between quantiles of training data; repeated quantiles give no piece.

    Args:
        features: `(N, F)`.
        num_pieces: P.

    Returns:
        `lower` and `width`, each `(F, P)`.
    """
    shares = torch.linspace(0, 1, num_pieces + 1)
    lower = torch.full((features.shape[1], num_pieces), _UNREACHABLE)
    width = torch.ones(features.shape[1], num_pieces)
    # One feature at a time: some versions of PyTorch refuse more than 16 million numbers.
    for row, values in enumerate(features.T):
        unique = torch.quantile(values, shares).unique()
        if len(unique) < 2:
            unique = torch.cat([unique, unique + 1])
        count = len(unique) - 1
        lower[row, :count], width[row, :count] = unique[:-1], unique.diff()
    return lower, width


class PiecewiseCodes(nn.Module):
    """Standardized codes of features, each encoded piecewise linearly.

    Args:
        num_features: F.
        num_pieces: P.
    """

    lower: torch.Tensor
    width: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, num_features: int, num_pieces: int) -> None:
        super().__init__()
        self.num_codes = num_features * num_pieces
        self.register_buffer("lower", torch.zeros(num_features, num_pieces))
        self.register_buffer("width", torch.ones(num_features, num_pieces))
        self.register_buffer("mean", torch.zeros(self.num_codes))
        self.register_buffer("deviation", torch.ones(self.num_codes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The codes `(N, F * P)` of features `(N, F)`."""
        return (self._encode(features) - self.mean) / self.deviation

    def fit(self, features: torch.Tensor) -> None:
        """Set pieces, mean and standard deviation, at least 0.05, from features of training data, `(N, F)`.

        Pieces that hardly vary are not magnified beyond that.
        """
        self.lower, self.width = fit_pieces(features, self.lower.shape[1])
        total = squares = torch.zeros(self.num_codes, dtype=torch.float64)
        for chunk in features.split(_CHUNK):
            codes = self._encode(chunk).double()
            total, squares = total + codes.sum(0), squares + codes.square().sum(0)
        mean = total / len(features)
        deviation = (squares / len(features) - mean.square()).clamp(min=_MIN_DEVIATION**2).sqrt()
        self.mean, self.deviation = mean.float(), deviation.float()

    def _encode(self, features: torch.Tensor) -> torch.Tensor:
        return encode_pieces(features, self.lower, self.width).flatten(1)
