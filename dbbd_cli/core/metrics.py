"""What the name of a metric says about it: whether it is a share, and whether high or low values are better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def is_share(name: str) -> bool:
    """Whether it is a share of correct answers, shown in percent: an accuracy or a top-1 accuracy."""
    return not {"accuracy", "top1"}.isdisjoint(name.split("_"))


def metric_words(name: str) -> str:
    """The name within a sentence or a table: `point_top1` is `point top-1`, `f1` is `F1`."""
    return " ".join({"top1": "top-1", "f1": "F1"}.get(word, word) for word in name.split("_"))


def higher_is_better(name: str) -> bool:
    """Whether high values are better; of every other metric, such as a loss, low values are."""
    return is_share(name) or name == "f1"


def cost(name: str, value: float) -> float:
    """The value as a number of which lower is better."""
    return -value if higher_is_better(name) else value


def superlative(name: str) -> str:
    """What the best value of a metric is: "highest" or "lowest"."""
    return "highest" if higher_is_better(name) else "lowest"


def best_of(name: str, epochs: Iterable[Mapping[str, Any]]) -> tuple[int, float] | None:
    """The epoch with the best validation value of a metric, the first of equals, and the value.

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
    """The value of a metric in words, with the best one of any epoch if that is another: "0.7 (lowest 0.6 in epoch 1)".

    Args:
        name: the metric.
        value: its value; None where it is not known.
        best: the epoch with the best value, and that value, as `best_of` returns them.
        describe: puts a value into words.
    """
    if best is None or best[1] == value:
        return describe(value)
    return f"{describe(value)} ({superlative(name)} {describe(best[1])} in epoch {best[0]:,})"
