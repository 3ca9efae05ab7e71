"""Calibrated probabilities and a decision threshold, fitted on validation logits.

N = samples, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Where every validation sample is classified correctly, the likelihood grows without end."""
_HALVINGS = 100
_ITERATIONS = 100


def calibrated(logits: torch.Tensor, temperature: float, bias: Sequence[float] | None) -> torch.Tensor:
    """The calibrated logits `(N, K)`, float64, of logits `(N, K)`; bias: what is added for each class, None for 0."""
    logits = logits.double() / temperature
    return logits if bias is None else logits + logits.new_tensor(bias)


def fit_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, list[float]]:
    """The temperature T and the bias b of each class for which `softmax(logits / T + b)` has the highest likelihood.

    Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation",
    2020. The bias corrects a network that leans to a class on samples unlike those it was trained on. Each bias has a
    standard normal prior, which hardly matters with hundreds of samples, and keeps it finite without any of its class.

    Args:
        logits: `(N, K)`.
        labels: `(N,)`.
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    # The likelihood is concave in 1/T and b together. Its maximum without b is a good start.
    inverse = torch.tensor(1 / fit_temperature(logits, labels), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [inverse, bias], max_iter=_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits * inverse + bias, labels) + bias.square().sum() / (2 * len(labels))
        value.backward()
        return value

    optimizer.step(loss)
    return 1 / min(max(float(inverse.detach()), 1 / MAX_TEMPERATURE), 1 / MIN_TEMPERATURE), bias.tolist()


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature T for which `softmax(logits / T)` has the highest likelihood.

    Guo et al., "On Calibration of Modern Neural Networks", 2017. The log-likelihood is concave in 1/T, so halving an
    interval by the sign of its slope finds the maximum.

    Args:
        logits: `(N, K)`.
        labels: `(N,)`.
    """
    logits = logits.double().cpu()
    target = logits.gather(1, labels.cpu()[:, None])[:, 0]
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        mean = (F.softmax(logits / math.exp(middle), dim=1) * logits).sum(1)
        # The slope in 1/T: positive if a lower temperature is more likely.
        if float((target - mean).mean()) > 0:
            high = middle
        else:
            low = middle
    return math.exp((low + high) / 2)


def choose_threshold(scores: torch.Tensor, positive: torch.Tensor, rate: float) -> float:
    """The lowest threshold at which at most this share of the negative samples has a score as high as it, or higher.

    It lies halfway between the highest negative score below it and the next score above.

    Args:
        scores: probability of the positive class, `(N,)`.
        positive: whether each sample is positive, `(N,)`, boolean.
        rate: the wanted false-positive rate.

    Returns:
        A threshold up to 1, or just above 1, which no score reaches, if too many negative samples have the score 1.
    """
    scores = scores.double().cpu()
    negative = scores[~positive.cpu()].sort(descending=True).values
    allowed = math.floor(rate * len(negative) + 1e-9)
    if allowed >= len(negative):
        return 0.0
    highest = negative[allowed]
    above = scores[scores > highest]
    if highest >= 1.0:
        return math.nextafter(1.0, 2.0)
    upper = float(above.min()) if len(above) else 1.0
    return max((float(highest) + upper) / 2, math.nextafter(float(highest), 2.0))
