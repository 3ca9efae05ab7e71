"""Ridge regressions from sums are those of scikit-learn, whatever the parts; so is R²."""

from __future__ import annotations

import math

import pytest
import torch

from dbbd_cli.model.ridge import Determination, RidgeSums

sklearn_linear = pytest.importorskip("sklearn.linear_model")
sklearn_metrics = pytest.importorskip("sklearn.metrics")


def points(count: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated channels of very different scale and offset, and two noisy targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    features = hidden @ torch.randn(4, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return features * torch.logspace(-3, 3, 6, dtype=torch.float64) + 50, hidden[:, :2] * 3 + noise + 7


@pytest.mark.parametrize("weight_decay", [1e-3, 0.1, 10.0])
def test_the_regression_is_that_of_scikit_learn(weight_decay: float) -> None:
    features, targets = points()
    sums = RidgeSums(6, 2)
    for x, y in zip(features.split(77), targets.split(77), strict=True):
        sums.add(x, y)
    found = sums.solve(weight_decay).predict(features)
    standardized = (features - features.mean(0)) / features.std(0, correction=0)
    expected = sklearn_linear.Ridge(alpha=weight_decay * len(features)).fit(standardized.numpy(), targets.numpy())
    torch.testing.assert_close(found, torch.from_numpy(expected.predict(standardized.numpy())), rtol=1e-6, atol=1e-6)


def test_constant_channels_change_nothing() -> None:
    features, targets = points()
    constant = torch.cat([features, torch.full((len(features), 1), 1e3)], dim=1)
    plain, more = RidgeSums(6, 2), RidgeSums(7, 2)
    plain.add(features, targets)
    more.add(constant, targets)
    torch.testing.assert_close(more.solve(0.01).predict(constant), plain.solve(0.01).predict(features))


def test_r2_is_that_of_scikit_learn() -> None:
    _, targets = points()
    predicted = targets + torch.tensor([0.5, -2.0])
    found = Determination(2)
    for one, other in zip(predicted.split(50), targets.split(50), strict=True):
        found.add(one, other)
    for column in (0, 1):
        expected = sklearn_metrics.r2_score(targets[:, column].numpy(), predicted[:, column].numpy())
        assert found.of(column, column + 1) == pytest.approx(expected)
    both = sklearn_metrics.r2_score(targets.numpy(), predicted.numpy(), multioutput="variance_weighted")
    assert found.of(0, 2) == pytest.approx(both)


def test_constant_targets_have_no_r2() -> None:
    found = Determination(1)
    found.add(torch.full((10, 1), 2.0), torch.full((10, 1), 3.0))
    assert math.isnan(found.of(0, 1))
    assert math.isnan(Determination(1).of(0, 1))
