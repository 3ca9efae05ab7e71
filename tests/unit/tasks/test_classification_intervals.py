"""Intervals have the width that theory predicts, keep groups together, and are those of resamples drawn one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.tasks import classification_intervals
from dbbd_cli.tasks.classification_intervals import Resampling, wilson
from dbbd_cli.tasks.classification_intervals import classification_intervals as intervals_of
from dbbd_cli.tasks.classification_report import FALSE_POSITIVE_RATES, classification_report


def example(count: int, classes: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) + 1.5 * F.one_hot(labels, classes)
    return (2 * logits).round() / 2, labels  # with ties


def test_accuracy_has_the_width_of_the_normal_approximation() -> None:
    hits = torch.arange(2000) % 10 > 0
    low, high = Resampling(2000).share(hits) or (0, 0)
    spread = 1.96 * math.sqrt(0.9 * 0.1 / 2000)
    assert (low, high) == pytest.approx((0.9 - spread, 0.9 + spread), abs=0.002)


def test_samples_of_a_group_are_drawn_together() -> None:
    """Ten copies of each sample carry no more information than one."""
    hits = torch.arange(300) % 4 > 0
    once = Resampling(300).share(hits)
    copied = Resampling(3000, [f"host{number % 300}" for number in range(3000)]).share(hits.repeat(10))
    independent = Resampling(3000).share(hits.repeat(10))
    assert once is not None
    assert copied is not None
    assert independent is not None
    assert copied == pytest.approx(once, abs=5e-3)
    assert once[1] - once[0] == pytest.approx(math.sqrt(10) * (independent[1] - independent[0]), rel=0.15)


def test_the_mean_of_equal_values_has_no_width_whatever_the_sizes_of_groups() -> None:
    groups = [0] * 50 + list(range(1, 51))
    assert Resampling(100, groups).mean(torch.full((100,), 0.25)) == pytest.approx([0.25, 0.25])


def test_a_share_of_all_or_none_has_an_interval() -> None:
    z = 1.959963984540054
    assert Resampling(50).share(torch.ones(50, dtype=torch.bool)) == pytest.approx([50 / (50 + z * z), 1.0])
    assert wilson(0, 50) == pytest.approx((0.0, z * z / (50 + z * z)))
    assert Resampling(3).share(torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) is None


@pytest.mark.parametrize("classes", [2, 3])
def test_each_resample_has_the_scores_of_a_report_on_the_drawn_samples(classes: int) -> None:
    logits, labels = example(80, classes)
    names, positive = list("abc")[:classes], "b" if classes == 2 else None
    resampling = Resampling(80, [number // 2 for number in range(80)], resamples=8)
    found = classification_report(logits, labels, names, positive, resampling)["intervals"]
    rows = []
    for weights in torch.cat(list(resampling.weights())):
        assert weights[::2].equal(weights[1::2])
        drawn = torch.repeat_interleave(torch.arange(80), weights.long())
        rows.append(classification_report(logits[drawn], labels[drawn], names, positive))

    def expected(values: list[float]) -> list[float]:
        return np.quantile(values, [0.025, 0.975]).tolist()

    for name in ("roc_auc", "average_precision"):
        assert found[name] == pytest.approx(expected([row[name] for row in rows]), abs=1e-6)
    assert found["f1"] == pytest.approx(expected([row["macro"]["f1"] for row in rows]), abs=1e-6)
    errors = np.array([row["expected_calibration_error"] for row in rows])
    estimate = classification_report(logits, labels, names, positive)["expected_calibration_error"]
    shifted = (errors - errors.mean() + estimate).clip(min=0).tolist()
    assert found["expected_calibration_error"] == pytest.approx(expected(shifted), abs=1e-9)
    if positive is None:
        assert "recall_at_fpr" not in found
        return
    for rate in FALSE_POSITIVE_RATES:
        low, high = expected([row["recall_at_fpr"][f"{rate:g}"] for row in rows])
        assert found["recall_at_fpr"][f"{rate:g}"][0] <= low + 1e-9
        assert found["recall_at_fpr"][f"{rate:g}"][1] >= high - 1e-9


def test_the_size_of_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = example(60)
    arguments = F.softmax(logits.double(), 1), labels, Resampling(60, resamples=50)
    expected = intervals_of(*arguments, positive=1, rates=(0.01,))
    monkeypatch.setattr(classification_intervals, "_AT_ONCE", 130)
    assert intervals_of(*arguments, positive=1, rates=(0.01,)) == expected


def test_one_class_alone_has_no_ranking_interval() -> None:
    logits, _ = example(20)
    found = classification_report(logits, torch.zeros(20, dtype=torch.long), ["a", "b"], "b", Resampling(20))
    assert found["intervals"]["roc_auc"] is None
    assert found["intervals"]["recall_at_fpr"] == {"0.01": None, "0.001": None}


def test_ranking_scores_of_many_classes_and_samples_have_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification_intervals, "MAX_RANKED", 100)
    logits, labels = example(60, 3)
    found = classification_report(logits, labels, ["a", "b", "c"], None, Resampling(60, resamples=5))
    assert "roc_auc" not in found["intervals"]


@pytest.mark.parametrize(("num_samples", "resamples"), [(10, 1000), (20_000, 1000), (40_000, 500), (1_000_000, 200)])
def test_more_samples_have_fewer_resamples(num_samples: int, resamples: int) -> None:
    assert Resampling(num_samples).resamples == resamples
