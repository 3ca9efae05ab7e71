"""Find shortcuts: trivial properties that give away the class, so that a network may learn nothing else.

Each property becomes a classifier with one rule (after Holte, "Very simple classification rules perform well on most
commonly used datasets", 1993), learned on the training split and scored on the validation split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dbbd_cli.data.properties import Property

MARGIN = 0.05
"""A rule is clearly above chance if the lower end of its interval is above chance by more than this."""
MIN_COUNT = 5
"""Training samples that a value needs for a rule of its own; rarer values are taken together."""
MAX_BINS = 32
_MAX_DISTINCT = 16
"""Numbers with at most this many different values are treated as names."""
_Z = 1.959964
"""Of a 95% interval."""


@dataclass(frozen=True)
class Shortcut:
    """A property as a classifier.

    Attributes:
        name: the property.
        balanced_accuracy: mean recall of the classes on the validation split.
        low, high: its 95% interval.
        accuracy: share of the validation samples that it classifies correctly.
        clear: whether it is clearly above chance.
        rule: what it says of the most frequent values, in words.
        advice: what to do about it.
    """

    name: str
    balanced_accuracy: float
    low: float
    high: float
    accuracy: float
    clear: bool
    rule: str
    advice: str


class OneRule(NamedTuple):
    """A classifier that looks at one property only.

    Attributes:
        names: the V values, or ranges of values, that the rule tells apart.
        codes: which of them each sample has, `(N,)`.
        counts: training samples of each value and class, `(V, C)`.
        classes: the class that the rule predicts for each value, `(V,)`.
    """

    names: list[str]
    codes: np.ndarray
    counts: np.ndarray
    classes: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The predicted class of each sample, `(N,)`."""
        return self.classes[self.codes]

    @property
    def is_constant(self) -> bool:
        """Whether all training samples have the same value."""
        return int(np.count_nonzero(self.counts.sum(axis=1))) < 2


def learn_rule(
    part: Property, labels: np.ndarray, is_train: np.ndarray, num_classes: int, *, balanced: bool
) -> OneRule:
    """Learn the rule of a property.

    Args:
        part: the property of N samples.
        labels: `(N,)` int64, class of each; only those of training samples matter.
        is_train: `(N,)` bool, the samples to learn from.
        num_classes: C.
        balanced: whether each class has the same weight, for a high mean recall rather than accuracy.
    """
    codes, names = _codes(part, is_train)
    counts = np.zeros((len(names), num_classes))
    np.add.at(counts, (codes[is_train], labels[is_train]), 1)
    weights = counts / np.maximum(counts.sum(axis=0), 1) if balanced else counts
    classes = np.where(weights.any(axis=1), weights.argmax(axis=1), weights.sum(axis=0).argmax())
    return OneRule(names, codes, counts, classes)


def find_shortcuts(
    properties: Sequence[Property], labels: np.ndarray, is_train: np.ndarray, is_val: np.ndarray, classes: Sequence[str]
) -> list[Shortcut]:
    """Score every property as a classifier, the most accurate first.

    Args:
        properties: of N samples.
        labels: `(N,)` int64, class of each.
        is_train: `(N,)` bool, the samples to learn rules from.
        is_val: `(N,)` bool, the samples to score them on.
        classes: names of the classes.
    """
    if not (is_train.any() and is_val.any()):
        return []
    found = [_score(part, labels, is_train, is_val, classes) for part in properties]
    return sorted(found, key=lambda shortcut: -shortcut.balanced_accuracy)


def chance_level(labels: np.ndarray) -> float:
    """The balanced accuracy of any classifier that ignores its input, on samples with these labels `(N,)`."""
    return 1 / max(1, len(set(labels.tolist())))


def best_possible(labels: np.ndarray, contents: Sequence[str]) -> float:
    """The highest balanced accuracy that is possible if the same content occurs in several classes.

    Args:
        labels: `(N,)` int64, class of each sample.
        contents: hash of the content of each.
    """
    sizes = np.bincount(labels)
    weights: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for label, content in zip(labels.tolist(), contents, strict=True):
        weights[content][label] += 1 / sizes[label]
    # Rounding must not turn 1 into 0.9999999.
    return min(1.0, round(sum(max(found.values()) for found in weights.values()) / np.count_nonzero(sizes), 9))


def _score(
    part: Property, labels: np.ndarray, is_train: np.ndarray, is_val: np.ndarray, classes: Sequence[str]
) -> Shortcut:
    # Each class has the same weight, so that the rules do not just name the largest one.
    rule = learn_rule(part, labels, is_train, len(classes), balanced=True)
    correct = rule.predicted[is_val] == labels[is_val]
    sizes = np.bincount(labels[is_val], minlength=len(classes))
    right = np.bincount(labels[is_val], weights=correct, minlength=len(classes))
    present = sizes > 0
    score, low, high = _mean_recall(right[present], sizes[present])
    return Shortcut(
        name=part.name,
        balanced_accuracy=score,
        low=low,
        high=high,
        accuracy=float(correct.mean()),
        clear=low > chance_level(labels[is_val]) + MARGIN,
        rule=_in_words(part, labels, is_train, classes, rule),
        advice=part.advice,
    )


def _codes(part: Property, is_train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The number of the value, or range of values, of each sample `(N,)`, and the names of these numbers."""
    values = part.values
    known = np.sort(values[is_train])
    if part.is_number:
        known = known[~np.isnan(known)]
        if len(_distinct(known)[0]) > _MAX_DISTINCT:
            bins = max(2, min(MAX_BINS, len(known) // (2 * MIN_COUNT)))
            edges, _ = _distinct(known[np.arange(1, bins) * len(known) // bins - 1])
            codes = np.searchsorted(edges, values, side="left")
            codes[np.isnan(values)] = len(edges) + 1
            return codes, [*(f"up to {edge:.4g}" for edge in edges), f"above {edges[-1]:.4g}", "unknown"]
    distinct, counts = _distinct(known)
    distinct = distinct[counts >= MIN_COUNT]
    if not len(distinct):
        return np.zeros(len(values), dtype=np.int64), ["other"]
    codes = np.minimum(np.searchsorted(distinct, values), len(distinct) - 1)
    codes[distinct[codes] != values] = len(distinct)
    return codes, [*(f"{value:.6g}" if part.is_number else str(value) for value in distinct), "other"]


def _distinct(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values of a sorted array, and how often each occurs."""
    # Not with np.unique: like np.quantile and np.median, it imports numpy.ma, the larger part of a look at new data.
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    return ordered[firsts], np.diff(np.append(firsts, len(ordered)))


def _mean_recall(right: np.ndarray, sizes: np.ndarray) -> tuple[float, float, float]:
    """The mean of recalls with its 95% interval.

    Two samples are added to each side, as by Agresti and Coull (1998), so that the interval of a recall of 1 is not
    empty.

    Args:
        right: `(C,)`, correctly classified samples of each class.
        sizes: `(C,)`, all samples of each.
    """
    mean = float((right / sizes).mean())
    shares = (right + 2) / (sizes + 4)
    half = _Z * float(np.sqrt((shares * (1 - shares) / (sizes + 4)).sum())) / len(sizes)
    center = float(shares.mean())
    return mean, max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half))


def _in_words(part: Property, labels: np.ndarray, is_train: np.ndarray, classes: Sequence[str], rule: OneRule) -> str:
    if part.is_number and len(rule.names) > 4:
        medians = []
        for label, name in list(enumerate(classes))[:3]:
            values = part.values[is_train & (labels == label)]
            values = np.sort(values[~np.isnan(values)])
            medians.append(f"{name} {values[(len(values) - 1) // 2]:.4g}" if len(values) else f"{name} unknown")
        return f"medians: {', '.join(medians)}{', …' if len(classes) > 3 else ''}"
    order = np.argsort(-rule.counts.sum(axis=1), kind="stable")
    seen = [code for code in order if rule.counts[code].any()]
    said = ", ".join(f"{rule.names[code]}: {classes[rule.classes[code]]}" for code in seen[:3])
    return said + (", …" if len(seen) > 3 else "")
