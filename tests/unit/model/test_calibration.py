"""A known temperature and a planted threshold are found again."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.model.calibration import MIN_TEMPERATURE, calibrated, choose_threshold, fit_calibration, fit_temperature


def drawn(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their probabilities: calibrated by construction."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_scaled_logits_give_their_factor(factor: float) -> None:
    logits, labels = drawn(20_000, 3)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * fit_temperature(logits, labels))


def test_the_temperature_has_the_lowest_loss_of_a_fine_grid() -> None:
    logits, labels = drawn(500, 2)
    logits = 2.5 * logits
    grid = torch.arange(0.5, 5.0, 0.001, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(logits / temperature, labels) for temperature in grid])
    assert fit_temperature(logits, labels) == pytest.approx(float(grid[losses.argmin()]), abs=0.001)


def test_two_logits_have_the_temperature_of_the_closed_form() -> None:
    """With one logit difference d, right in a share p of the samples: d / T = log(p / (1 - p))."""
    logits = torch.tensor([[0.0, 4.0]]).repeat(10, 1)
    labels = torch.tensor([1] * 8 + [0] * 2)
    assert fit_temperature(logits, labels) == pytest.approx(4.0 / math.log(0.8 / 0.2))


def test_without_errors_the_temperature_is_limited() -> None:
    assert fit_temperature(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0])) == pytest.approx(
        MIN_TEMPERATURE
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.5, -1.0, 0.5)])
def test_a_planted_temperature_and_bias_are_found(shift: tuple[float, ...]) -> None:
    logits, labels = drawn(20_000, 3)
    temperature, bias = fit_calibration(2.0 * (logits - torch.tensor(shift)), labels)
    assert temperature == pytest.approx(2.0, rel=0.03)
    assert bias == pytest.approx(shift, abs=0.06)
    # It is the maximum: no step in any direction is better.
    found = calibrated(2.0 * (logits - torch.tensor(shift)), temperature, bias)
    best = F.cross_entropy(found, labels) + torch.tensor(bias).square().sum() / (2 * len(labels))
    for step in (*torch.eye(3, dtype=torch.float64), *-torch.eye(3, dtype=torch.float64)):
        prior = (torch.tensor(bias, dtype=torch.float64) + 0.01 * step).square().sum() / (2 * len(labels))
        assert F.cross_entropy(found + 0.01 * step, labels) + prior > best


def test_a_class_without_samples_has_a_finite_bias() -> None:
    logits, labels = drawn(200, 3)
    logits, labels = logits[labels < 2], labels[labels < 2]
    temperature, bias = fit_calibration(logits, labels)
    assert all(math.isfinite(value) for value in (temperature, *bias))
    assert -10 < bias[2] < min(bias[:2])


def test_without_errors_temperature_and_bias_are_limited() -> None:
    temperature, bias = fit_calibration(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0]))
    assert temperature == pytest.approx(MIN_TEMPERATURE)
    assert bias == pytest.approx([0.0, 0.0], abs=1e-6)


def test_the_threshold_lies_between_the_planted_scores() -> None:
    negative = torch.linspace(0.0, 0.99, 100)
    scores = torch.cat([negative, torch.tensor([0.95, 0.975, 1.0])])
    positive = torch.arange(103) >= 100
    # Five of the hundred negative samples, 0.95 to 0.99, may be wrong: the sixth is 0.94.
    threshold = choose_threshold(scores, positive, 0.05)
    assert threshold == pytest.approx(0.945)
    assert int((scores[~positive] >= threshold).sum()) == 5
    assert choose_threshold(scores, positive, 0.001) == pytest.approx(0.995)


def test_equal_scores_never_exceed_the_rate() -> None:
    scores = torch.tensor([0.5, 0.5, 0.5, 0.9, 0.9, 1.0])
    positive = torch.tensor([False, False, False, False, True, True])
    for rate in (0.1, 0.3, 0.6):
        assert float((scores[~positive] >= choose_threshold(scores, positive, rate)).double().mean()) <= rate
    assert choose_threshold(torch.ones(4), torch.tensor([False, False, True, True]), 0.5) > 1.0
