"""What frozen features know of classes: multinomial logistic regression on them, and the scores of a segmentation.

Legend: N labeled points, M points to predict, D channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

# Rows that are predicted at once: 13 MB of 200 channels.
_PIECE = 1 << 14


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features.

    Attributes:
        mean: `(D,)` of the features that it was fitted on.
        scale: `(D,)` their standard deviation; 1 where they are all equal.
        weight: `(K, D)`.
        bias: `(K,)`; minus infinity for a class that had no label, so that it is never predicted.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Classes `(M,)` of features `(M, D)`, computed in pieces."""
        if not len(features):
            return torch.empty(0, dtype=torch.int64, device=features.device)
        return torch.cat([self._logits(piece).argmax(dim=1) for piece in features.split(_PIECE)])

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear((features.to(self.mean.dtype) - self.mean) / self.scale, self.weight, self.bias)


def fit_probe(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    balance: float = 0.5,
    weight_decay: float = 1e-3,
    max_iterations: int = 100,
) -> LinearProbe:
    """Fits a probe on features `(N, D)` with labels `(N,)` from 0 to K - 1; float64 stays so, all else is float32.

    It minimizes the weighted mean of the cross-entropy plus half of `weight_decay` times the sum of the squared weights
    (of the standardised features; biases are free). The predictions of its minimum are unique, and nothing in the way
    there is random: no seed, no batches, no learning rate to choose.

    Args:
        features: see above.
        labels: see above.
        num_classes: K.
        balance: a point counts as (points of its class) ** -balance. At 0 all points count alike, and what is rare is
            hardly ever predicted, whatever the features know of it; at 1 all classes do, and what is rare is predicted
            far too often.
        weight_decay: see above.
        max_iterations: steps of L-BFGS, at most.

    Raises:
        ValueError: there are no points, a feature is not finite, or a label is out of range.
    """
    if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
        raise ValueError(f"no features with one label each: shapes {tuple(features.shape)} and {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}; expected 0 to {num_classes - 1}")
    x = features.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if not torch.isfinite(x).all():
        raise ValueError("the features are not finite")
    scale, mean = torch.std_mean(x, dim=0, correction=0)
    # What rounding leaves of equal values must not be blown up to a feature.
    scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
    x = (x - mean) / scale

    # Without labels the best bias of a class is minus infinity; the search is for the others alone.
    seen, target = labels.unique(return_inverse=True)
    size = torch.bincount(target).to(x.dtype)
    share = size ** (1 - balance) / (size ** (1 - balance)).sum()
    weight, bias = _minimum(x, target, share, share / size, weight_decay, max_iterations)
    all_weights = x.new_zeros(num_classes, x.shape[1]).index_copy(0, seen, weight)
    all_biases = x.new_full((num_classes,), -torch.inf).index_copy(0, seen, bias)
    return LinearProbe(mean, scale, all_weights, all_biases)


def _minimum(
    x: torch.Tensor,
    target: torch.Tensor,
    share: torch.Tensor,
    class_weight: torch.Tensor,
    weight_decay: float,
    max_iterations: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(K, D)` and bias `(K,)` at the minimum of the loss of `fit_probe`.

    A point of class k has the weight `class_weight[k]`, and all points of the class together `share[k]`.
    """
    # Features of networks are correlated, and the loss is a long thin valley. The search walks in coordinates in which
    # it is round: weight = step @ rounding.T. They change the way, not the minimum.
    spread, direction = torch.linalg.eigh((x.T @ x / len(x)).cpu().double())  # not every device can
    rounding = (direction / (spread.clamp(min=0) + max(weight_decay, 1e-6)).sqrt()).to(x)
    x = x @ rounding
    step = x.new_zeros(len(share), x.shape[1], requires_grad=True)
    bias = share.log().requires_grad_()  # the best one of features that say nothing
    optimizer = torch.optim.LBFGS(
        [step, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=20,
        tolerance_grad=1e-5,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, step, bias), target, class_weight, reduction="sum")
        value = value + weight_decay / 2 * (step @ rounding.T).square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return step.detach() @ rounding.T, bias.detach()


def confusion_counts(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """How many points `(M,)` of each class (row) were given each class (column): `(K, K)` int64."""
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


@dataclass(frozen=True)
class SegmentationScores:
    """The scores of a segmentation, each from 0 to 1.

    Attributes:
        miou: mean intersection over union of the classes that have labels. A class without any is left out: the only
            score that it could get is 0, for points that already count as missed in their own class.
        mean_accuracy: mean share of correct points of the same classes.
        overall_accuracy: share of correct points.
        per_class_iou: of all K classes; None where there are no labels.
    """

    miou: float
    mean_accuracy: float
    overall_accuracy: float
    per_class_iou: list[float | None]


def segmentation_scores(confusion: torch.Tensor) -> SegmentationScores:
    """The scores of `confusion_counts`, of one scene or summed over several.

    Raises:
        ValueError: there are no labels.
    """
    counts = confusion.double()
    correct, labeled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    occurs = labeled > 0
    if not occurs.any():
        raise ValueError("there are no labels to score against")
    union = labeled + predicted - correct
    iou = correct / union
    return SegmentationScores(
        miou=iou[occurs].mean().item(),
        mean_accuracy=(correct / labeled)[occurs].mean().item(),
        overall_accuracy=(correct.sum() / labeled.sum()).item(),
        per_class_iou=[value if there else None for value, there in zip(iou.tolist(), occurs.tolist(), strict=True)],
    )
