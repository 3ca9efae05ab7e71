"""Properties of a metric that follow from its name: whether it is a share, and whether higher values are better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dbbd_cli.core.text import printable

_SPELLINGS = {"auc": "AUC", "f1": "F1", "miou": "mIoU", "roc": "ROC", "top1": "top-1", "url": "URL"}
_SHARES = frozenset({"accuracy", "f1", "iou", "miou", "precision", "recall", "top1"})
_HIGHER_IS_BETTER = _SHARES | {"auc", "r2", "score"}
"""Words in the names of scores: a task marks a metric as better when higher by using one of them in its name."""


def is_share(name: str) -> bool:
    """Return whether it is shown in percent: one word of the name is that of a share of correct predictions."""
    return not _SHARES.isdisjoint(name.split("_"))


def metric_words(name: str) -> str:
    """The name within a sentence or a table: `point_top1` is `point top-1`, `f1` is `F1`."""
    return " ".join(_SPELLINGS.get(word, word) for word in printable(name).split("_"))


def higher_is_better(name: str) -> bool:
    """Return whether higher values are better: one word of the name, such as `r2` or `accuracy`, is that of a score."""
    return not _HIGHER_IS_BETTER.isdisjoint(name.split("_"))


def cost(name: str, value: float) -> float:
    """Return the value as a number that is better the lower it is."""
    return -value if higher_is_better(name) else value


def superlative(name: str) -> str:
    """Return what the best value of a metric is: "highest" or "lowest"."""
    return "highest" if higher_is_better(name) else "lowest"


def best_of(name: str, epochs: Iterable[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Return the epoch with the best validation value of a metric, the first if several are equal, and the value.

    Args:
        name: the metric.
        epochs: rows of the history, each with `epoch` and `val`; a value may be None.

    Returns:
        None if no epoch has a value.
    """
    known = [(row["epoch"], row["val"][name]) for row in epochs if row["val"].get(name) is not None]
    return min(known, key=lambda pair: cost(name, pair[1]), default=None)


def describe_with_best(
    name: str, value: float | None, best: tuple[int, float] | None, describe: Callable[[Any], str]
) -> str:
    """Return the value of a metric in words, with the best one if that differs: "0.7 (lowest 0.6 in epoch 1)".

    Args:
        name: the metric.
        value: its value; None if unknown.
        best: the best epoch and value, as returned by `best_of`.
        describe: formats a value.
    """
    if best is None or best[1] == value:
        return describe(value)
    return f"{describe(value)} ({superlative(name)} {describe(best[1])} in epoch {best[0]:,})"
