"""95% intervals of the metrics of a classifier: the percentile bootstrap over samples, or over groups of them.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. Samples of a group, such as the URLs of a host, are not
independent: resampling groups keeps them together ("cluster bootstrap"). Every metric is computed for many resamples
at once, from how often each sample was drawn.

N = samples, G = groups, R = resamples, K = classes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dbbd_cli.model.threads import one_thread

LEVEL = 0.95
RESAMPLES = 1000
_MIN_RESAMPLES, _MAX_DRAWS = 200, 20_000_000
"""With more samples times resamples, there are fewer resamples, but not fewer than this: it would take long."""
MAX_RANKED = 50_000
"""With more samples times ranked classes, ranking scores have no interval: it would take long."""
_AT_ONCE = 400_000
"""Draws that are processed together, so that intermediate results stay in the cache of a processor."""
_NORMAL_QUANTILE = 1.959963984540054

Interval = list[float] | None


class Resampling:
    """The resamples of a split: the same ones for everything that is measured on it.

    Args:
        groups: the group of each sample; None if samples are independent.
        num_samples: N.
        resamples: R; None: 1,000, or fewer with more than 20,000 samples.
        seed: of the draws.
    """

    def __init__(
        self, num_samples: int, groups: Sequence[Hashable] | None = None, *, resamples: int | None = None, seed: int = 0
    ) -> None:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups or ()))}
        self.group = torch.tensor([numbers[group] for group in groups]) if groups else torch.arange(num_samples)
        self.num_groups = len(numbers) or num_samples
        affordable = max(_MIN_RESAMPLES, _MAX_DRAWS // max(1, num_samples))
        self.resamples = min(RESAMPLES, affordable) if resamples is None else resamples
        self.seed = seed

    def weights(self) -> Iterator[torch.Tensor]:
        """How often each sample was drawn, a part of the resamples at a time: `(r, N)`, float64."""
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _AT_ONCE // max(len(self.group), self.num_groups))
        for first in range(0, self.resamples, at_once):
            count = min(at_once, self.resamples - first)
            drawn = generator.integers(0, self.num_groups, (count, self.num_groups))
            drawn += np.arange(count)[:, None] * self.num_groups
            counts = np.bincount(drawn.ravel(), minlength=count * self.num_groups).reshape(count, self.num_groups)
            yield torch.from_numpy(counts).double()[:, self.group]

    def share(self, hits: torch.Tensor, among: torch.Tensor | None = None) -> Interval:
        """The interval of the share of hits `(N,)`, boolean, among some samples `(N,)`, by default all; see `widened`.

        Returns:
            None if there are no such samples.
        """
        among = torch.ones_like(hits) if among is None else among
        columns = torch.stack([hits & among, among], dim=1).double()
        with one_thread():
            sums = torch.cat([weights @ columns for weights in self.weights()])
        return widened(interval(sums[:, 0] / sums[:, 1]), int((hits & among).sum()), int(among.sum()))

    def mean(self, values: torch.Tensor) -> Interval:
        """The interval of the mean of values `(N,)`."""
        with one_thread():
            means = [weights @ values.double() / weights.sum(1) for weights in self.weights()]
            return interval(torch.cat(means))


def interval(values: torch.Tensor) -> Interval:
    """The middle 95% of values `(R,)`, without those that are undefined (NaN); None if all are."""
    known = values[~values.isnan()]
    if not len(known):
        return None
    tail = (1 - LEVEL) / 2
    return torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=known.dtype)).tolist()


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of a share of independent samples (Wilson, 1927), which has a width even if all or none are hits."""
    z = _NORMAL_QUANTILE
    center, spread = hits + z * z / 2, z * math.sqrt(hits * (count - hits) / count + z * z / 4)
    return max(0.0, (center - spread) / (count + z * z)), min(1.0, (center + spread) / (count + z * z))


def widened(bounds: Interval, hits: int, count: int) -> Interval:
    """The interval of a share, not narrower than for independent samples: without any miss, all resamples are equal."""
    if bounds is None or not count:
        return None
    low, high = wilson(hits, count)
    return [min(bounds[0], low), max(bounds[1], high)]


def calibration_error_interval(gaps: torch.Tensor, bins: torch.Tensor, resampling: Resampling) -> Interval:
    """The interval of the expected calibration error.

    Noise raises this error, and resamples have more noise than the data: their mean is shifted to the estimate.

    Args:
        gaps: confidence minus correctness (0 or 1) of each sample, `(N,)`.
        bins: the bin of each sample's confidence, `(N,)`.
        resampling: the resamples.
    """
    with one_thread():
        errors = [_sums(weights * gaps, bins).abs().sum(1) / weights.sum(1) for weights in resampling.weights()]
        error, estimate = torch.cat(errors), _sums(gaps[None], bins).abs().sum() / len(gaps)
        return interval((error - error.mean() + estimate).clamp(min=0.0))


def ranking_scores(
    scores: torch.Tensor, positive: torch.Tensor, rates: Sequence[float] = ()
) -> dict[str, float | None]:
    """ROC AUC, average precision and recall at false-positive rates of one class; None if undefined.

    Args:
        scores: `(N,)`.
        positive: whether each sample belongs to the class, `(N,)`, boolean.
        rates: the false-positive rates, each giving `recall_<rate>`.
    """
    once = torch.ones(1, len(scores), dtype=torch.float64)
    found = {name: float(value) for name, value in _Ranking(scores, positive).scores(once, rates).items()}
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def classification_intervals(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    resampling: Resampling,
    *,
    positive: int | None,
    rates: Sequence[float],
) -> dict[str, Any]:
    """The intervals of accuracy, mean F1 and ranking scores.

    Args:
        probabilities: `(N, K)`, float64.
        labels: `(N,)`.
        resampling: the resamples.
        positive: the positive one of two classes; None with more: then ranking scores are means over the classes.
        rates: false-positive rates at which to compute the recall of the positive class.
    """
    with one_thread():
        return _intervals(probabilities, labels, resampling, positive, rates)


def _intervals(
    probabilities: torch.Tensor,
    labels: torch.Tensor,
    resampling: Resampling,
    positive: int | None,
    rates: Sequence[float],
) -> dict[str, Any]:
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(dim=1)
    correct = predicted == labels
    present = torch.bincount(torch.cat([labels, predicted]), minlength=num_classes) > 0
    ranked = [positive] if positive is not None else list(range(num_classes))
    if len(ranked) * len(labels) > MAX_RANKED:
        ranked = []
    rankings = [_Ranking(probabilities[:, k], labels == k) for k in ranked]
    parts: dict[str, list[torch.Tensor]] = {}
    for weights in resampling.weights():
        values = {
            "accuracy": weights @ correct.double() / weights.sum(1),
            "f1": _macro_f1(weights, predicted, labels, present),
        }
        scores = [ranking.scores(weights, rates) for ranking in rankings]
        for name in scores[0] if scores else ():
            values[name] = torch.stack([score[name] for score in scores]).nanmean(0)
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    intervals: dict[str, Any] = {name: interval(torch.cat(chunks)) for name, chunks in parts.items()}
    intervals["accuracy"] = widened(intervals["accuracy"], int(correct.sum()), len(labels))
    recalls = {f"{rate:g}": intervals.pop(f"recall_{rate:g}", None) for rate in rates}
    if positive is not None and rankings:
        once = ranking_scores(probabilities[:, positive], labels == positive, rates)
        count = int((labels == positive).sum())
        intervals["recall_at_fpr"] = {
            rate: bounds and widened(bounds, round((once[f"recall_{rate}"] or 0.0) * count), count)
            for rate, bounds in recalls.items()
        }
    return intervals


def _sums(values: torch.Tensor, places: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """The sums of values `(r, N)` by place: `(r, count)`, by default with as many places as there are."""
    count = int(places.max()) + 1 if count is None else count
    columns = values.T.contiguous()  # rows are much faster to add than columns
    return columns.new_zeros(count, columns.shape[1]).index_add_(0, places, columns).T


def _macro_f1(
    weights: torch.Tensor, predicted: torch.Tensor, labels: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """The mean F1 of each resample `(r,)` over the classes that the split or its predictions have."""
    num_classes = len(present)
    hits = _sums(weights * (predicted == labels), labels, num_classes)
    total = _sums(weights, labels, num_classes) + _sums(weights, predicted, num_classes)
    return (2 * hits / total)[:, present].nanmean(1)


class _Ranking:
    """Scores `(N,)` of one class in descending order; equal ones form one step of its curves."""

    def __init__(self, scores: torch.Tensor, positive: torch.Tensor) -> None:
        ordered, self.order = scores.sort(descending=True, stable=True)
        self.positive = positive[self.order].double()
        self.last = torch.cat([(ordered[1:] != ordered[:-1]).nonzero()[:, 0], torch.tensor([len(ordered) - 1])])

    def scores(self, weights: torch.Tensor, rates: Sequence[float]) -> dict[str, torch.Tensor]:
        """ROC AUC, average precision and recall at each rate of each resample; NaN if it lacks one of both classes."""
        weights = weights[:, self.order]
        hits = (weights * self.positive).cumsum(1)[:, self.last]
        drawn = weights.cumsum(1)[:, self.last]
        false = drawn - hits
        num_positive, num_negative = hits[:, -1:], false[:, -1:]
        rise, run = _steps(hits), _steps(false)
        area = (run * (hits - rise / 2)).sum(1) / (num_positive * num_negative)[:, 0]
        precision = (rise * hits / drawn.clamp(min=1)).sum(1) / num_positive[:, 0]
        found = {"roc_auc": area, "average_precision": precision.where(num_negative[:, 0] > 0, math.nan)}
        for rate in rates:
            # As for the curve itself, the rate is compared after the division.
            number = (false / num_negative <= rate).sum(1, keepdim=True)
            recall = hits.gather(1, (number - 1).clamp(min=0)).where(number > 0, 0) / num_positive
            found[f"recall_{rate:g}"] = recall[:, 0].where(num_negative[:, 0] > 0, math.nan)
        return found


def _steps(values: torch.Tensor) -> torch.Tensor:
    return torch.diff(values, dim=1, prepend=values.new_zeros(len(values), 1))
