"""A network for URLs: two views of the same bytes, whose logits are averaged.

B = URLs, L = bytes, T = tokens, F = lexical features, K = classes, E = members of the ensemble.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.numeric_pieces import encode_pieces, fit_pieces
from dbbd_cli.model.processes import Dropout
from dbbd_cli.model.urls.features import NUM_CATEGORIES, categories, lexical_features, tokens


class TokenView(nn.Module):
    """A linear model on hashed tokens, weighted by their rarity (TF-IDF).

    Args:
        bits: bits of a hash; there are 2^bits rows of weights.
        num_classes: number of logits.
    """

    idf: torch.Tensor

    def __init__(self, *, bits: int, num_classes: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("idf", torch.ones(1 << bits))
        self.linear = nn.EmbeddingBag(1 << bits, num_classes, mode="sum")
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.zeros_(self.linear.weight)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns logits `(B, K)` from codes `(B, L)`."""
        hashes, valid = tokens(codes, self.bits)
        count = valid.sum(1)
        row = torch.arange(len(codes), device=codes.device).repeat_interleave(count)
        hashes = hashes[valid]
        weights = self.idf[hashes]
        norm = torch.zeros(len(codes), device=codes.device).index_add_(0, row, weights.square()).sqrt()
        weights = weights / norm.clamp(min=1e-6)[row]
        # Ten times the learning rate of the other weights, in effect: the rows are used rarely.
        return 10 * self.linear(hashes, count.cumsum(0) - count, per_sample_weights=weights) + self.bias

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

    Each number is encoded piecewise linearly between quantiles of the training data (Gorishniy et al., "On Embeddings
    for Numerical Features in Tabular Deep Learning", 2022), each category has an embedding. The members differ in how
    they scale their inputs (Gorishniy et al., "TabM", 2025).

    Args:
        num_features: F.
        bins: pieces of each feature.
        bits: bits of the hash of a category.
        dim: width of the embedding of a category.
        hidden: width.
        members: E.
        num_classes: number of logits.
        dropout: dropout probability.
    """

    lower: torch.Tensor
    width: torch.Tensor
    known: torch.Tensor
    first_row: torch.Tensor

    def __init__(
        self,
        num_features: int,
        *,
        bins: int,
        bits: int,
        dim: int,
        hidden: int,
        members: int,
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("lower", torch.zeros(num_features, bins))
        self.register_buffer("width", torch.ones(num_features, bins))
        self.register_buffer("known", torch.zeros(NUM_CATEGORIES << bits))
        self.register_buffer("first_row", torch.arange(NUM_CATEGORIES) << bits, persistent=False)
        self.embedding = nn.Embedding(NUM_CATEGORIES << bits, dim)
        width = num_features * bins + NUM_CATEGORIES * dim
        self.scale1 = nn.Parameter(torch.empty(members, width).normal_(1, 0.5))
        self.scale2 = nn.Parameter(torch.randint(0, 2, (members, hidden)).float() * 2 - 1)
        self.layer1 = nn.Linear(width, hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.output = nn.Parameter(torch.randn(members, hidden, num_classes) / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.zeros(members, num_classes))
        self.dropout = Dropout(dropout, dim=1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns the logits of all members `(E, B, K)` from codes `(B, L)`."""
        rows = categories(codes, self.bits) + self.first_row
        embedded = self.embedding(rows) * self.known[rows][:, :, None]
        pieces = encode_pieces(lexical_features(codes), self.lower, self.width)
        x = torch.cat([pieces.flatten(1), embedded.flatten(1)], 1)
        x = self.dropout(F.relu(self.layer1(x * self.scale1[:, None])))
        x = self.dropout(F.relu(self.layer2(x * self.scale2[:, None])))
        return x @ self.output + self.bias[:, None]

    def fit(self, codes: torch.Tensor) -> None:
        """Set pieces and known categories from the training URLs `(N, L)`.

        Pieces lie between quantiles; repeated ones give no piece. A category of fewer than five URLs is ignored.
        """
        chunks = [chunk.long() for chunk in codes.split(1024)]
        features = torch.cat([lexical_features(chunk) for chunk in chunks])
        self.lower, self.width = fit_pieces(features, self.lower.shape[1])
        rows = torch.cat([categories(chunk, self.bits) + self.first_row for chunk in chunks]).flatten()
        self.known = (rows.bincount(minlength=len(self.known)) >= 5).float()


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
        self.token_view = TokenView(bits=bits, num_classes=num_classes)
        self.lexical_view = LexicalView(
            num_features, bins=16, bits=12, dim=8, hidden=128, members=8, num_classes=num_classes, dropout=dropout
        )

    def views(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each view, `(B, K)`, the ensemble's as `(E, B, K)`, from codes `(B, L)`, uint8."""
        codes = codes.long()
        return [self.token_view(codes), self.lexical_view(codes)]

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns logits `(B, K)` from encoded URLs `(B, L)`, uint8."""
        return self.combine(self.views(codes))

    @staticmethod
    def combine(views: list[torch.Tensor]) -> torch.Tensor:
        """The mean logits `(B, K)` of both views; the tokens count twice, and the ensemble once."""
        linear, lexical = views
        return (2 * linear + lexical.mean(0)) / 3

    def fit(self, codes: torch.Tensor) -> None:
        """Set what depends on the training URLs `(N, L)` as a whole: the rarity of tokens, the range of features."""
        self.token_view.fit(codes)
        self.lexical_view.fit(codes)
