"""The network for URLs depends on a URL alone, learns, and is fitted to the URLs of the training split."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.data.urls.encoding import MAX_BYTES, encode_urls
from dbbd_cli.data.urls.synthetic import synthetic_urls
from dbbd_cli.model.numeric_pieces import encode_pieces
from dbbd_cli.model.urls.classifier import UrlClassifier
from dbbd_cli.model.urls.features import lexical_features, tokens
from dbbd_cli.model.urls.network import LexicalView, TokenView, UrlNet

SYNTHETIC = synthetic_urls(60, seed=1)
URLS = [*SYNTHETIC["benign"], *SYNTHETIC["malicious"]]
LABELS = torch.tensor([0] * 60 + [1] * 60)
ODD = ["", "?", "a", "/", "x" * 2000, "é" * 300, "https://", "a.example/" + "%41" * 200]


def codes_of(urls: list[str]) -> torch.Tensor:
    return torch.from_numpy(encode_urls(urls).copy())


@pytest.fixture
def network() -> UrlNet:
    torch.manual_seed(0)
    made = UrlNet(2, bits=12)
    made.fit(codes_of(URLS))
    return made.eval()


@torch.no_grad()
def test_logits_depend_neither_on_padding_nor_on_the_other_urls_of_a_batch(network: UrlNet) -> None:
    urls = [*URLS[::15], *ODD]
    together = network(codes_of(urls))
    assert together.shape == (len(urls), 2)
    assert together.isfinite().all()
    alone = torch.cat([network(codes_of([url])) for url in urls])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    padded = network(F.pad(codes_of(urls), (0, 7)))
    torch.testing.assert_close(padded, together, rtol=1e-4, atol=1e-5)


def test_all_parameters_get_finite_gradients(network: UrlNet) -> None:
    classifier = UrlClassifier(network, label_smoothing=0.05).train()
    urls = [*URLS, *ODD]
    classifier(codes_of(urls), torch.arange(len(urls)) % 3 // 2).loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_few_steps_learn_the_training_urls() -> None:
    torch.manual_seed(0)
    network = UrlNet(2, bits=12, dropout=0.0)
    codes = codes_of(URLS)
    network.fit(codes)
    classifier = UrlClassifier(network).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.002)
    losses = []
    for _ in range(25):
        output = classifier(codes, LABELS)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0] / 4
    assert (classifier.eval()(codes, LABELS).logits.argmax(1) == LABELS).float().mean() > 0.95


@torch.no_grad()
def test_the_loss_is_the_mean_of_the_views_in_training_and_that_of_the_mean_logits_otherwise(network: UrlNet) -> None:
    classifier = UrlClassifier(network)
    codes = codes_of(URLS)
    views = network.views(codes)
    mean = (2 * views[0] + views[1].mean(0)) / 3
    output = classifier.eval()(codes, LABELS)
    torch.testing.assert_close(output.logits, mean)
    torch.testing.assert_close(output.loss, F.cross_entropy(mean, LABELS))
    for module in classifier.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = [
        torch.stack([F.cross_entropy(one, LABELS) for one in (view if view.dim() == 3 else view[None])]).mean()
        for view in views
    ]
    torch.testing.assert_close(classifier.train()(codes, LABELS).loss, torch.stack(losses).mean())


def test_tokens_are_weighted_by_their_rarity_and_those_of_a_single_url_ignored() -> None:
    view = TokenView(bits=12, num_classes=2)
    codes = codes_of(URLS)
    view.fit(codes)
    counts: Counter[int] = Counter()
    hashes, valid = tokens(codes.long(), 12)
    for row, is_token in zip(hashes, valid, strict=True):
        counts.update(set(row[is_token].tolist()))
    for place in range(1 << 12):
        expected = math.log((1 + len(URLS)) / (1 + counts[place])) + 1 if counts[place] >= 2 else 0.0
        assert view.idf[place].item() == pytest.approx(expected, abs=1e-5)


def test_pieces_of_a_feature_lie_between_quantiles_of_the_training_urls(network: UrlNet) -> None:
    codes = codes_of(URLS)
    features = lexical_features(codes.long())
    view = network.lexical_view
    assert isinstance(view, LexicalView)
    pieces = encode_pieces(features, view.lower, view.width)
    assert pieces.shape == (len(URLS), *view.lower.shape)
    assert 0.0 <= float(pieces.min()) <= float(pieces.max()) <= 1.0
    # The sum over the pieces rises with the feature.
    for column in range(features.shape[1]):
        order = features[:, column].argsort()
        assert (pieces[order, column].sum(1).diff() >= -1e-4).all()
    varying = features.amin(0) < features.amax(0)
    lowest = pieces[features.argmin(0), torch.arange(features.shape[1])].sum(1)
    assert lowest[varying].abs().max() == 0.0


def test_a_category_of_few_urls_is_ignored() -> None:
    urls = ["a.example/x", "b.example/x", "c.example/x", "d.example/x", "e.test/x"]
    view = UrlNet(2, bits=12).lexical_view
    view.fit(codes_of(urls))
    # The first segment and the last one, which all URLs share, and no suffix; but no host.
    assert int(view.known.sum()) == 3


def test_the_size_is_limited() -> None:
    assert sum(parameter.numel() for parameter in UrlNet(2).parameters()) < 5_000_000
    assert codes_of(["x" * 10_000_000]).shape == (1, MAX_BYTES)
