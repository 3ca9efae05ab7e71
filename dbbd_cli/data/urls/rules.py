"""One-rule classifiers of URLs by a trivial property: what a good classifier must clearly beat.

Holte, "Very Simple Classification Rules Perform Well on Most Commonly Used Datasets", 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dbbd_cli.data.urls.cleaning import host_of, split_url

_PIECES = 8
"""Intervals that the range of a number is divided into, each with about as many training samples."""


def url_properties(url: str) -> dict[str, str | int]:
    """The trivial properties of a URL by name: words to compare, numbers to divide into intervals."""
    scheme, authority, rest = split_url(url)
    path, _, query = rest.partition("?")
    host = host_of(url)
    return {
        "scheme": scheme.lower(),
        "www.": str(authority.lower().startswith("www.")),
        "length": len(url),
        "has a path": str(len(path) > 1),
        "has a query": str(bool(query)),
        "dots": url.count("."),
        "TLD": host.rpartition(".")[2],
    }


def one_rule_predictions(
    train: Sequence[Mapping[str, str | int]], labels: Sequence[int], samples: Sequence[Mapping[str, str | int]]
) -> dict[str, np.ndarray]:
    """Predict the most frequent class among the training samples with the same value of one property.

    Args:
        train: properties of the training samples, at least one.
        labels: their classes.
        samples: properties of the samples to classify.

    Returns:
        Name of the property to the predicted classes `(N,)`; properties that never vary in training are left out.
    """
    known = np.asarray(labels)
    default = np.bincount(known).argmax()
    predictions = {}
    for name in train[0]:
        values, others = (np.asarray([row[name] for row in rows]) for rows in (train, samples))
        if len(np.unique(values)) < 2:
            continue
        if values.dtype.kind in "if":
            edges = np.unique(np.quantile(values, np.linspace(0, 1, _PIECES + 1)[1:-1]))
            values, others = np.searchsorted(edges, values), np.searchsorted(edges, others)
        found, places = np.unique(values, return_inverse=True)
        counts = np.zeros((len(found), known.max() + 1), dtype=np.int64)
        np.add.at(counts, (places, known), 1)
        position = np.searchsorted(found, others).clip(max=len(found) - 1)
        predictions[name] = np.where(found[position] == others, counts.argmax(axis=1)[position], default)
    return predictions
