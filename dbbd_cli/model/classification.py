"""Metrics of classifiers that are summed over batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dbbd_cli.model.output import DeferredMetric


def batch_metrics(
    logits: torch.Tensor, labels: torch.Tensor, *, training: bool
) -> dict[str, torch.Tensor | DeferredMetric]:
    """Return the number of correct predictions of a batch and, except in training, the counts for the F1 score.

    Args:
        logits: `(B, K)`.
        labels: `(B,)`.
        training: whether the module is being trained.

    Returns:
        `accuracy`, a sum, and `f1`: counts `(2K,)` for `macro_f1`. The first half are the correct predictions of each
        class, the second half its samples plus its predictions.
    """
    predicted = logits.detach().argmax(dim=1)
    correct = predicted == labels
    metrics: dict[str, torch.Tensor | DeferredMetric] = {"accuracy": correct.sum()}
    if not training:
        num_classes = logits.shape[1]
        places = torch.cat([labels, labels + num_classes, predicted + num_classes])
        ones = torch.ones_like(correct, dtype=torch.float32)
        counts = torch.cat([correct.float(), ones, ones])
        metrics["f1"] = counts.new_zeros(2 * num_classes).index_add_(0, places, counts)
    return metrics


def macro_f1(counts: Sequence[float]) -> float:
    """Compute the mean F1 over the classes from the summed counts of `batch_metrics`, `(2K,)`.

    A class with neither samples nor predictions has no F1 and does not count.
    """
    num_classes = len(counts) // 2
    scores = [
        2 * correct / total for correct, total in zip(counts[:num_classes], counts[num_classes:], strict=True) if total
    ]
    return sum(scores) / len(scores)
