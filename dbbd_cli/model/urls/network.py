"""A network for URLs: three views of the same bytes, whose logits are averaged.

B = URLs, L = bytes, T = tokens, F = lexical features, K = classes, E = members of the ensemble.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.urls.features import END, lexical_features, parts, tokens


class TokenView(nn.Module):
    """A linear model and a small network on hashed tokens, weighted by their rarity (TF-IDF).

    Args:
        bits: bits of a hash; there are 2^bits rows of weights.
        dim: width of the embedding.
        num_classes: number of logits.
        dropout: dropout probability.
    """

    idf: torch.Tensor

    def __init__(self, *, bits: int, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("idf", torch.ones(1 << bits))
        self.linear = nn.EmbeddingBag(1 << bits, num_classes, mode="sum")
        self.embedding = nn.EmbeddingBag(1 << bits, dim, mode="sum")
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.deep = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(dim, 4 * dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, num_classes),
        )
        nn.init.zeros_(self.linear.weight)
        nn.init.normal_(self.embedding.weight, std=0.2)

    def forward(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the logits of the linear model and of the network, each `(B, K)`, from codes `(B, L)`."""
        hashes, valid = tokens(codes, self.bits)
        weights = self.idf[hashes] * valid
        weights = weights / weights.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
        # Ten times the learning rate of the other weights, in effect: the rows are used rarely.
        linear = 10 * self.linear(hashes, per_sample_weights=weights) + self.bias
        return linear, self.deep(self.embedding(hashes, per_sample_weights=weights))

    def fit(self, codes: torch.Tensor) -> None:
        """Set the rarity of each token from the training URLs `(N, L)`; one in fewer than two of them is ignored."""
        counts = torch.zeros(1 << self.bits)
        for chunk in codes.split(1024):
            hashes, valid = tokens(chunk.long(), self.bits)
            ordered, _ = torch.where(valid, hashes, -1).sort(1)
            is_new = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True) & (ordered >= 0)
            counts.index_add_(0, ordered[is_new], torch.ones(int(is_new.sum())))
        self.idf = torch.where(counts >= 2, ((1 + len(codes)) / (1 + counts)).log() + 1, 0.0)


class LexicalView(nn.Module):
    """An ensemble of small networks on lexical features that shares most of its weights.

    Each feature is encoded piecewise linearly between quantiles of the training data (Gorishniy et al., "On Embeddings
    for Numerical Features in Tabular Deep Learning", 2022). The members differ in how they scale their inputs
    (Gorishniy et al., "TabM", 2025).

    Args:
        num_features: F.
        bins: pieces of each feature.
        hidden: width.
        members: E.
        num_classes: number of logits.
        dropout: dropout probability.
    """

    lower: torch.Tensor
    width: torch.Tensor

    def __init__(
        self, num_features: int, *, bins: int, hidden: int, members: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("lower", torch.zeros(num_features, bins))
        self.register_buffer("width", torch.ones(num_features, bins))
        self.scale1 = nn.Parameter(torch.empty(members, num_features * bins).normal_(1, 0.5))
        self.scale2 = nn.Parameter(torch.randint(0, 2, (members, hidden)).float() * 2 - 1)
        self.layer1 = nn.Linear(num_features * bins, hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.output = nn.Parameter(torch.randn(members, hidden, num_classes) / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.zeros(members, num_classes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the logits of all members `(E, B, K)` from features `(B, F)`."""
        x = ((features[:, :, None] - self.lower) / self.width).clamp(0, 1).flatten(1)
        x = self.dropout(F.relu(self.layer1(x * self.scale1[:, None])))
        x = self.dropout(F.relu(self.layer2(x * self.scale2[:, None])))
        return x @ self.output + self.bias[:, None]

    def fit(self, features: torch.Tensor) -> None:
        """Set the pieces to quantiles of the training data `(N, F)`; repeated quantiles give no piece."""
        num_bins = self.lower.shape[1]
        edges = torch.quantile(features, torch.linspace(0, 1, num_bins + 1), dim=0).T.contiguous()
        for row, values in enumerate(edges):
            unique = values.unique()
            if len(unique) < 2:
                unique = torch.cat([unique, unique + 1])
            count = len(unique) - 1
            self.lower[row], self.width[row] = math.inf, 1.0
            self.lower[row, :count], self.width[row, :count] = unique[:-1], unique.diff()
        # An infinite lower end would give NaN for infinite features only, but large numbers are clearer.
        self.lower.clamp_(max=1e9)


class ByteView(nn.Module):
    """Two layers of convolutions over the bytes, and their maximum and mean over the host and over the rest.

    Args:
        dim: width of the embedding of a byte.
        channels: channels of each convolution.
        num_classes: number of logits.
        dropout: dropout probability.
    """

    def __init__(self, *, dim: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, dim, padding_idx=0)
        self.part = nn.Embedding(4, dim)
        self.wide = nn.ModuleList(nn.Conv1d(dim, channels, size, padding=size // 2) for size in (3, 5, 7))
        self.second = nn.Conv1d(3 * channels, channels, 3, padding=1)
        self.output = nn.Linear(4 * channels, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns logits `(B, K)` from codes `(B, L)`."""
        part = parts(codes)
        is_text = (codes > 0)[:, None]
        x = self.dropout((self.byte(codes) + self.part(part)).transpose(1, 2)) * is_text
        x = torch.cat([F.gelu(layer(x)) for layer in self.wide], dim=1) * is_text
        x = F.gelu(self.second(self.dropout(x)))
        areas = [((codes > END) & (part == 1))[:, None], ((codes > END) & (part == 2))[:, None]]
        pooled = [(x.masked_fill(~area, -1.0)).amax(2) for area in areas]
        pooled += [(x * area).sum(2) / area.sum(2).clamp(min=1) for area in areas]
        return self.output(self.dropout(torch.cat(pooled, dim=1)))


class UrlNet(nn.Module):
    """Classifies URLs from their bytes.

    Args:
        num_classes: number of logits.
        bits: bits of the hash of a token.
        dropout: dropout probability.
    """

    def __init__(self, num_classes: int, *, bits: int = 17, dropout: float = 0.3) -> None:
        super().__init__()
        num_features = lexical_features(torch.ones(1, 8, dtype=torch.long)).shape[1]
        self.token_view = TokenView(bits=bits, dim=16, num_classes=num_classes, dropout=dropout)
        self.lexical_view = LexicalView(
            num_features, bins=24, hidden=128, members=8, num_classes=num_classes, dropout=dropout
        )
        self.byte_view = ByteView(dim=48, channels=96, num_classes=num_classes, dropout=dropout)

    def views(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each view, `(B, K)`, the ensemble's as `(E, B, K)`, from codes `(B, L)`, uint8."""
        codes = codes.long()
        return [*self.token_view(codes), self.lexical_view(lexical_features(codes)), self.byte_view(codes)]

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns logits `(B, K)` from encoded URLs `(B, L)`, uint8."""
        return self.combine(self.views(codes))

    @staticmethod
    def combine(views: list[torch.Tensor]) -> torch.Tensor:
        """The mean logits `(B, K)` of all views, where an ensemble counts as one."""
        return torch.stack([view.mean(0) if view.dim() == 3 else view for view in views]).mean(0)

    def fit(self, codes: torch.Tensor) -> None:
        """Set what depends on the training URLs `(N, L)` as a whole: the rarity of tokens, the range of features."""
        self.token_view.fit(codes)
        self.lexical_view.fit(torch.cat([lexical_features(chunk.long()) for chunk in codes.split(1024)]))
