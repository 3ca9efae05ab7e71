"""Encode numbers piecewise linearly between quantiles of the training data.

After Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning" (2022). N = samples,
F = features, P = pieces.
"""

from __future__ import annotations

import torch

_UNREACHABLE = 1e9


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
        features: `(N, F)`, at most 16 million numbers.
        num_pieces: P.

    Returns:
        `lower` and `width`, each `(F, P)`.
    """
    edges = torch.quantile(features, torch.linspace(0, 1, num_pieces + 1), dim=0).T.contiguous()
    lower = torch.full((len(edges), num_pieces), _UNREACHABLE)
    width = torch.ones(len(edges), num_pieces)
    for row, values in enumerate(edges):
        unique = values.unique()
        if len(unique) < 2:
            unique = torch.cat([unique, unique + 1])
        count = len(unique) - 1
        lower[row, :count], width[row, :count] = unique[:-1], unique.diff()
    return lower, width
