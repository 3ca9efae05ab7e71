"""Numbers are encoded piecewise linearly between quantiles."""

from __future__ import annotations

import torch

from dbbd_cli.model.numeric_pieces import PiecewiseCodes, encode_pieces, fit_pieces


def test_the_sum_over_pieces_is_the_number_of_quantiles_below() -> None:
    features = torch.randn(1001, 2, generator=torch.Generator().manual_seed(0)).exp()
    lower, width = fit_pieces(features, 10)
    total = encode_pieces(features, lower, width).sum(2)
    order = features.argsort(0)
    for column in range(2):
        assert torch.allclose(total[order[::100, column], column], torch.arange(11.0), atol=1e-4)
        assert (total[order[:, column], column].diff() >= 0).all()
    assert torch.equal(encode_pieces(torch.full((1, 2), -9.0), lower, width), torch.zeros(1, 2, 10))
    assert torch.equal(encode_pieces(torch.full((1, 2), 1e6), lower, width), torch.ones(1, 2, 10))


def test_repeated_and_constant_numbers_give_fewer_pieces() -> None:
    is_late = (torch.arange(101) > 50).float()
    features = torch.stack([torch.ones(101), is_late], dim=1)
    lower, width = fit_pieces(features, 4)
    assert (width > 0).all()
    encoded = encode_pieces(features, lower, width)
    assert torch.equal(encoded.sum(2)[:, 0], torch.zeros(101))
    assert torch.equal(encoded.sum(2)[:, 1], is_late)


def test_codes_are_standardized_over_the_samples_that_they_are_fitted_to() -> None:
    features = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    features[:, 1] = 7.0  # always the same
    features[5, 2] = 1e4  # an outlier
    pieces = PiecewiseCodes(3, 8)
    pieces.fit(features)
    codes = pieces(features).view(-1, 3, 8)
    torch.testing.assert_close(codes.mean(0), torch.zeros(3, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes[:, 0].std(0), torch.ones(8), atol=1e-3, rtol=0)
    assert codes.isfinite().all()
    assert (pieces.deviation >= 0.05 - 1e-6).all()
    assert not codes[:, 1].any()
