"""Encode numbers piecewise linearly between quantiles of the training data.

After Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning" (2022). N = samples,
F = features, P = pieces.
"""

from __future__ import annotations

import torch

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


def code_statistics(
    features: torch.Tensor, lower: torch.Tensor, width: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the standard deviation, at least 0.05, of the encoded features of training data, each `(F * P,)`.

    Pieces that hardly vary are not magnified beyond that.

    Args:
        features: `(N, F)`.
        lower: see `encode_pieces`.
        width: see `encode_pieces`.
    """
    total = squares = torch.zeros(lower.numel(), dtype=torch.float64)
    for chunk in features.split(_CHUNK):
        codes = encode_pieces(chunk, lower, width).flatten(1).double()
        total, squares = total + codes.sum(0), squares + codes.square().sum(0)
    mean = total / len(features)
    deviation = (squares / len(features) - mean.square()).clamp(min=_MIN_DEVIATION**2).sqrt()
    return mean.float(), deviation.float()
