"""Every score equals one computed by hand, or by another implementation, and the report stays small."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.model.classification import macro_f1
from dbbd_cli.model.images.classifier import Classifier
from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
from dbbd_cli.report.evaluation import evaluation_problem
from dbbd_cli.tasks.classification_report import classification_report


def example(count: int = 400, classes: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator) + 1.5 * F.one_hot(labels, classes)
    return logits, labels


def test_counts_and_scores_equal_those_computed_by_hand() -> None:
    logits, labels = example()
    report = classification_report(logits, labels, ["benign", "malicious"], "malicious")
    predicted = logits.argmax(1)
    for true in range(2):
        for guess in range(2):
            expected = int(((labels == true) & (predicted == guess)).sum())
            assert report["confusion_matrix"][true][guess] == expected
    hits = report["confusion_matrix"][1][1]
    precision = hits / int((predicted == 1).sum())
    recall = hits / int((labels == 1).sum())
    row = report["per_class"][1]
    assert row["class"] == "malicious"
    assert row["precision"] == pytest.approx(precision)
    assert row["recall"] == pytest.approx(recall)
    assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert row["support"] == int((labels == 1).sum())
    assert report["accuracy"] == pytest.approx(float((predicted == labels).double().mean()))
    assert report["loss"] == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
    macro = np.mean([entry["f1"] for entry in report["per_class"]])
    weighted = sum(entry["f1"] * entry["support"] for entry in report["per_class"]) / 400
    assert report["macro"]["f1"] == pytest.approx(macro)
    assert report["weighted"]["f1"] == pytest.approx(weighted)


def test_ranking_scores_equal_those_computed_by_hand() -> None:
    logits, labels = example(300)
    report = classification_report(logits, labels, ["benign", "malicious"], "malicious")
    score = F.softmax(logits.double(), dim=1)[:, 1]
    positive, negative = score[labels == 1], score[labels == 0]
    pairs = (positive[:, None] > negative[None, :]).double().mean()  # the probability that a pair is in order
    assert report["roc_auc"] == pytest.approx(float(pairs), abs=1e-6)
    for rate in (0.01, 0.001):
        best = max(
            float((positive >= threshold).double().mean())
            for threshold in [*score.tolist(), 2.0]
            if float((negative >= threshold).double().mean()) <= rate
        )
        assert report["recall_at_fpr"][f"{rate:g}"] == pytest.approx(best)
    order = score.argsort(descending=True)
    hits = (labels[order] == 1).double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    assert report["average_precision"] == pytest.approx(float((precision * hits).sum() / hits.sum()), abs=1e-6)


def test_the_positive_class_may_be_the_first() -> None:
    logits, labels = example(300)
    last = classification_report(logits, labels, ["a", "b"], "b")
    first = classification_report(logits.flip(1), 1 - labels, ["b", "a"], "b")
    assert first["roc_auc"] == pytest.approx(last["roc_auc"])
    assert first["recall_at_fpr"] == last["recall_at_fpr"]


def test_calibration_equals_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = example(2000, classes=4)
    report = classification_report(logits, labels, list("abcd"), None)
    expected = multiclass_calibration_error(F.softmax(logits.double(), 1), labels, 4, n_bins=15, norm="l1")
    assert report["expected_calibration_error"] == pytest.approx(float(expected), abs=1e-6)
    assert sum(report["curves"]["reliability"]["count"]) == 2000


def test_more_classes_are_each_ranked_against_the_rest_and_an_absent_one_has_no_score() -> None:
    logits, labels = example(500, classes=3)
    logits = torch.cat([logits, torch.full((500, 1), -5.0)], dim=1)
    report = classification_report(logits, labels, ["a", "b", "c", "absent"], None)
    curves = report["curves"]["roc"]
    assert [curve["class"] for curve in curves] == ["a", "b", "c", "absent"]
    assert curves[3]["auc"] is None
    assert report["roc_auc"] == pytest.approx(np.mean([curve["auc"] for curve in curves[:3]]))
    assert report["recall_at_fpr"] is None
    assert report["per_class"][3]["support"] == 0
    json.dumps(report, allow_nan=False)


def test_macro_scores_are_the_f1_that_training_logs_also_without_samples_of_a_class() -> None:
    logits, labels = example(60, 4)
    logits[:, 3] = -10.0
    labels = labels.clamp(max=2)
    report = classification_report(logits, labels, ["a", "b", "c", "absent"], None)
    output = Classifier(torch.nn.Flatten()).eval()(logits[:, :, None, None], labels)
    counts = output.metrics["f1"]
    assert isinstance(counts, torch.Tensor)
    assert report["macro"]["f1"] == pytest.approx(macro_f1(counts.tolist()), abs=1e-6)
    assert report["per_class"][3]["f1"] == 0.0


def test_one_class_alone_in_the_split_has_no_ranking() -> None:
    logits, _ = example(20)
    report = classification_report(logits, torch.zeros(20, dtype=torch.long), ["a", "b"], "b")
    assert report["roc_auc"] is None
    assert report["recall_at_fpr"] == {"0.01": None, "0.001": None}


def test_curves_are_thinned_and_keep_their_ends() -> None:
    logits, labels = example(5000)
    roc = classification_report(logits, labels, ["a", "b"], "b")["curves"]["roc"][0]
    assert len(roc["fpr"]) == len(roc["tpr"]) == 500
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0.0, 0.0, 1.0, 1.0)


def test_the_report_of_very_many_classes_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.tasks.classification_report.MAX_CONFUSION_CLASSES", 9)
    monkeypatch.setattr("dbbd_cli.tasks.classification_report.MAX_ALL_CURVE_POINTS", 300)
    logits, labels = example(classes=10)
    report = classification_report(logits, labels, [str(index) for index in range(10)], None)
    assert report["confusion_matrix"] is None
    assert {len(curve["fpr"]) for curve in report["curves"]["roc"]} <= set(range(2, 31))
    assert evaluation_problem({**report, "format": 1}, ClassificationEvaluation) == ""
