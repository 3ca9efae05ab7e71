"""A baseline for networks on URLs: logistic regression on hashed character n-grams and words.

N = URLs, L = bytes of the longest one, D = tokens that are used, K = classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from dbbd_cli.model.threads import one_thread
from dbbd_cli.model.urls.features import tokens

_BITS = 18
_INVERSE_REGULARIZATION = 10.0
"""C of the usual notation: the weight of the likelihood of all samples against half the squared norm."""
_ITERATIONS = 50
_AT_ONCE = 1024


class NgramBaseline:
    """Multinomial logistic regression on TF-IDF weights, fitted by L-BFGS; deterministic.

    Args:
        codes: encoded training URLs `(N, L)`, uint8.
        labels: `(N,)`.
        num_classes: K.
    """

    def __init__(self, codes: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
        row, token, count = _counts(codes)
        # A token in a single URL says nothing about others.
        frequency = torch.bincount(token, minlength=1 << _BITS)
        used = frequency >= 2
        self.column = torch.where(used, used.cumsum(0) - 1, -1)
        self.idf = ((1 + len(codes)) / (1 + frequency[used].float())).log() + 1
        features = self._matrix(row, token, count, len(codes))
        transposed = features.transposed()
        target = F.one_hot(labels, num_classes).float()
        self.weight = torch.zeros(len(self.idf), num_classes)
        self.bias = torch.zeros(num_classes)
        decay = 1.0 / (_INVERSE_REGULARIZATION * len(codes))
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=_ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def loss() -> float:
            logits = features.times(self.weight) + self.bias
            gap = (F.softmax(logits, dim=1) - target) / len(codes)
            self.weight.grad = transposed.times(gap) + decay * self.weight
            self.bias.grad = gap.sum(0)
            return float(F.cross_entropy(logits, labels) + decay / 2 * self.weight.square().sum())

        with torch.no_grad(), one_thread():
            optimizer.step(loss)

    def logits(self, codes: torch.Tensor) -> torch.Tensor:
        """Returns `(N, K)` from encoded URLs `(N, L)`, uint8."""
        return self._matrix(*_counts(codes), len(codes)).times(self.weight) + self.bias

    def _matrix(self, row: torch.Tensor, token: torch.Tensor, count: torch.Tensor, num_rows: int) -> _Sparse:
        """The weights of the tokens as a matrix `(N, D)`, each row of length 1."""
        column = self.column[token]
        row, column, count = row[column >= 0], column[column >= 0], count[column >= 0]
        value = (1 + count.float().log()) * self.idf[column]
        length = torch.zeros(num_rows).index_add_(0, row, value.square()).sqrt()
        return _Sparse(row, column, value / length[row], (num_rows, len(self.idf)))


class _Sparse(NamedTuple):
    """A sparse matrix, ordered by row."""

    row: torch.Tensor
    column: torch.Tensor
    value: torch.Tensor
    shape: tuple[int, int]

    def times(self, other: torch.Tensor) -> torch.Tensor:
        """The product with a dense matrix."""
        starts = F.pad(torch.bincount(self.row, minlength=self.shape[0]).cumsum(0)[:-1], (1, 0))
        return F.embedding_bag(self.column, other, starts, mode="sum", per_sample_weights=self.value)

    def transposed(self) -> _Sparse:
        order = self.column.sort(stable=True).indices
        return _Sparse(self.column[order], self.row[order], self.value[order], self.shape[::-1])


def _counts(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, hash and number of each different token of URLs `(N, L)`, ordered by row and hash."""
    found = []
    for start in range(0, len(codes), _AT_ONCE):
        part = codes[start : start + _AT_ONCE].long()
        hashes, valid = tokens(part[:, : max(1, int((part > 0).sum(1).max()))], _BITS)
        rows = torch.arange(start, start + len(part))[:, None].expand_as(hashes)
        places, counts = torch.unique((rows << _BITS | hashes)[valid], return_counts=True)
        found.append((places >> _BITS, places & ((1 << _BITS) - 1), counts))
    row, token, count = (torch.cat(columns) for columns in zip(*found, strict=True))
    return row, token, count
