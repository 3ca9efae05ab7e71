"""The n-gram baseline finds a planted word, is a minimum of its loss, and is the same every time."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from dbbd_cli.data.urls.encoding import encode_urls
from dbbd_cli.model.urls import ngrams
from dbbd_cli.model.urls.ngrams import NgramBaseline

URLS = [f"host{number}.example/{'login' if number % 2 else 'garden'}/{number * 7919 % 1000}" for number in range(80)]
LABELS = torch.arange(80) % 2


def encoded(urls: list[str]) -> torch.Tensor:
    return torch.from_numpy(encode_urls(urls))


def test_a_planted_word_decides() -> None:
    others = encoded(["other.example/login/5", "other.example/garden/5", "unknown"])
    logits = NgramBaseline(encoded(URLS), LABELS, 2).logits(others)
    assert logits.argmax(1)[:2].tolist() == [1, 0]
    assert logits.isfinite().all()
    assert logits.equal(NgramBaseline(encoded(URLS), LABELS, 2).logits(others))


def test_the_fit_is_a_minimum_of_the_regularized_loss() -> None:
    """Compared with autograd on the dense matrix of the same features."""
    model = NgramBaseline(encoded(URLS), LABELS, 2)
    rows = model._matrix(*ngrams._counts(encoded(URLS)), len(URLS))
    dense = torch.zeros(rows.shape).index_put_((rows.row, rows.column), rows.value)
    assert torch.allclose(dense.norm(dim=1), torch.ones(len(URLS)))
    assert torch.allclose(dense @ model.weight, rows.times(model.weight), atol=1e-5)
    assert torch.allclose(dense.T @ dense[:, :3], rows.transposed().times(dense[:, :3]), atol=1e-5)
    weight = model.weight.clone().requires_grad_()
    loss = F.cross_entropy(dense @ weight + model.bias, LABELS) + weight.square().sum() / (2 * 10.0 * len(URLS))
    loss.backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-3


def test_urls_without_a_common_token_give_the_shares_of_the_classes() -> None:
    model = NgramBaseline(encoded(["a", "b", "c"]), torch.tensor([0, 1, 1]), 2)
    logits = model.logits(encoded(["", "d"]))
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == [1, 1]
