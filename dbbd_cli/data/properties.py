"""Trivial properties of samples, and keys that samples share which should not be told apart.

A task measures them; `shortcuts` and `overlap` judge them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LONGEST_NAME = 64


@dataclass(frozen=True)
class Property:
    """A property that says nothing about what the classes mean, such as the height of an image.

    Attributes:
        name: what it is, such as "bit depth".
        values: one for each sample, `(N,)`: numbers, NaN if unknown, or strings.
        advice: what to do if it gives the class away.
    """

    name: str
    values: np.ndarray
    advice: str

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.values.dtype.kind == "f"


@dataclass(frozen=True)
class Relation:
    """What makes samples near duplicates, or dependent in another way, such as the host of URLs.

    Attributes:
        name: what related samples share.
        keys: one for each sample; samples with equal keys are related, those with None to no other.
        advice: what to do if related samples are in different splits.
    """

    name: str
    keys: Sequence[Hashable | None]
    advice: str


def numbers(name: str, values: Sequence[float], advice: str) -> Property:
    """A property whose values are numbers; NaN: unknown."""
    return Property(name, np.asarray(values, dtype=np.float64), advice)


def categories(name: str, values: Sequence[str], advice: str) -> Property:
    """A property whose values are names, of which the first 64 characters count."""
    # All elements of an array take the space of the longest, and names from data may have any length.
    return Property(name, np.array([value[:_LONGEST_NAME] for value in values], dtype=str), advice)


def joined(one: Sequence[Property], other: Sequence[Property]) -> list[Property]:
    """The properties that two lists of samples both have, of the samples of both: those of `one` first."""
    others = {part.name: part.values for part in other}
    return [
        Property(part.name, np.concatenate([part.values, others[part.name]]), part.advice)
        for part in one
        if part.name in others
    ]


def summary(values: np.ndarray) -> dict[str, Any]:
    """The median and range of numbers, or the most frequent name and its share; empty if nothing is known."""
    if values.dtype.kind == "f":
        values = values[~np.isnan(values)]
        if not len(values):
            return {}
        median = np.quantile(values, 0.5, method="lower")  # a value that occurs
        return {"median": float(median), "min": float(values.min()), "max": float(values.max())}
    if not len(values):
        return {}
    names, counts = np.unique(values, return_counts=True)
    return {"most_frequent": str(names[counts.argmax()]), "share": float(counts.max() / len(values))}
