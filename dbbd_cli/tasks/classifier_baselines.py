"""What a classifier must beat: trivial rules and a simple model, learned from the same training split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dbbd_cli.data.properties import Property, joined
from dbbd_cli.data.shortcuts import MARGIN, learn_rule
from dbbd_cli.data.urls.encoding import encode_urls
from dbbd_cli.model.calibration import calibrated, fit_calibration
from dbbd_cli.model.urls.ngrams import NgramBaseline
from dbbd_cli.tasks.classification_intervals import Resampling, classification_intervals, ranking_scores

MAX_CLASSES = 20
"""With more classes, only the most frequent class is a baseline: fitting n-grams would take long."""
MAX_NGRAM_URLS = 50_000
"""Training URLs that the n-grams are fitted to; of more, some are drawn: it would take long."""
_AT_ONCE = 8192


def baselines(
    train_urls: Sequence[str] | None,
    train_labels: torch.Tensor,
    val_urls: Sequence[str] | None,
    val_labels: torch.Tensor,
    urls: Sequence[str] | None,
    labels: torch.Tensor,
    *,
    correct: torch.Tensor,
    num_classes: int,
    positive: int | None,
    resampling: Resampling,
    train_properties: Sequence[Property],
    properties: Sequence[Property],
) -> list[dict[str, Any]]:
    """Score the baselines on a split: the most frequent class, one-rule classifiers and, for URLs, n-grams.

    Args:
        train_urls: the URLs of the training split as the network gets them; None if samples are not URLs.
        train_labels: classes of the training split.
        val_urls: the URLs of the validation split, which the n-grams are calibrated on, like the network; None if
            samples are not URLs.
        val_labels: classes of the validation split.
        urls: the URLs of the split; None if samples are not URLs.
        labels: classes of the split, `(N,)`.
        correct: whether the network is right, `(N,)`, boolean.
        num_classes: number of classes.
        positive: the positive one of two classes; None with more.
        resampling: the resamples of the split.
        train_properties: trivial properties of the training split.
        properties: those of the split.

    Returns:
        For each baseline, its name, accuracy, how much higher that of the network is (`lead`), intervals of both, for
        a rule whether it `is_shortcut`, clearly above the most frequent class, and for n-grams `roc_auc` with its
        interval.
    """
    most_frequent = int(torch.bincount(train_labels).argmax())
    rows = [_row("most frequent class", labels == most_frequent, correct, resampling)]
    if num_classes > MAX_CLASSES:
        return rows
    every_label = torch.cat([train_labels, labels]).numpy()
    is_train = np.arange(len(every_label)) < len(train_labels)
    rules = []
    for name, predicted in _rules(joined(train_properties, properties), every_label, is_train, num_classes):
        row = _row(f"rule: {name}", torch.from_numpy(predicted) == labels, correct, resampling)
        low, _ = row["accuracy_interval"]
        rules.append({**row, "is_shortcut": low > rows[0]["accuracy"] + MARGIN})
    rows += sorted(rules, key=lambda row: row["accuracy"])
    if train_urls is None or val_urls is None or urls is None:
        return rows
    model = _ngrams(train_urls, train_labels, num_classes)
    temperature, bias = fit_calibration(_logits(model, val_urls), val_labels)
    probabilities = calibrated(_logits(model, urls), temperature, bias).softmax(dim=1)
    row = _row("n-grams", probabilities.argmax(1) == labels, correct, resampling)
    if positive is not None:
        intervals = classification_intervals(probabilities, labels, resampling, positive=positive, rates=())
        row["roc_auc"] = ranking_scores(probabilities[:, positive], labels == positive)["roc_auc"]
        row["roc_auc_interval"] = intervals.get("roc_auc")
    return [*rows, row]


def _rules(
    properties: Iterable[Property], labels: np.ndarray, is_train: np.ndarray, num_classes: int
) -> Iterator[tuple[str, np.ndarray]]:
    """For each property whose rule is not constant, its name and what the rule predicts outside the training split."""
    for part in properties:
        rule = learn_rule(part, labels, is_train, num_classes, balanced=False)
        if not rule.is_constant:
            yield part.name, rule.predicted[~is_train]


def _ngrams(urls: Sequence[str], labels: torch.Tensor, num_classes: int) -> NgramBaseline:
    chosen = np.sort(np.random.default_rng(0).permutation(len(urls))[:MAX_NGRAM_URLS])
    codes = torch.from_numpy(encode_urls([urls[place] for place in chosen]))
    return NgramBaseline(codes, labels[torch.from_numpy(chosen)], num_classes)


def _logits(model: NgramBaseline, urls: Sequence[str]) -> torch.Tensor:
    parts = range(0, len(urls), _AT_ONCE)
    return torch.cat([model.logits(torch.from_numpy(encode_urls(urls[start : start + _AT_ONCE]))) for start in parts])


def _row(name: str, hits: torch.Tensor, correct: torch.Tensor, resampling: Resampling) -> dict[str, Any]:
    lead = correct.double() - hits.double()
    return {
        "name": name,
        "accuracy": float(hits.double().mean()),
        "accuracy_interval": resampling.share(hits),
        "lead": float(lead.mean()),
        "lead_interval": resampling.mean(lead),
    }
