"""The probe finds the minimum of its objective, deterministically, and the scores are those of TorchMetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index, multiclass_recall

from dbbd_cli.model import linear_probe
from dbbd_cli.model.linear_probe import LinearProbe, confusion_counts, fit_probe, segmentation_scores


def blobs(
    points: int, channels: int, classes: int, *, seed: int = 0, spread: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around one center per class, with channels of very different scale and offset."""
    generator = torch.Generator().manual_seed(seed)
    center = 3 * torch.randn(classes, channels, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (points,), generator=generator)
    features = center[labels] + spread * torch.randn(points, channels, generator=generator, dtype=torch.float64)
    return features * torch.logspace(-3, 3, channels, dtype=torch.float64) + 5, labels


def objective(
    probe: LinearProbe, features: torch.Tensor, labels: torch.Tensor, balance: float, weight_decay: float
) -> torch.Tensor:
    x = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    count = torch.bincount(labels)[labels].double() ** -balance
    log_share = F.log_softmax(x @ probe.weight.T + probe.bias, dim=1)[torch.arange(len(x)), labels]
    return -(count / count.sum()) @ log_share + weight_decay / 2 * probe.weight.square().sum()


def uneven(points: int, classes: int, **options: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `blobs`, with most points in class 0."""
    features, labels = blobs(points, 5, classes, **options)  # type: ignore[arg-type]
    kept = (labels == 0) | (torch.arange(points) % 5 == 0)
    return features[kept], labels[kept]


def test_separable_classes_are_separated() -> None:
    features, labels = blobs(600, 6, 5, spread=0.1)
    probe = fit_probe(features[:300].float(), labels[:300], 5)
    assert probe.predict(features[300:].float()).tolist() == labels[300:].tolist()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weight_decay", [1e-3, 1e-1])
def test_the_fit_is_a_minimum(balance: float, weight_decay: float) -> None:
    features, labels = uneven(600, 3, spread=3.0)
    probe = fit_probe(features, labels, 3, balance=balance, weight_decay=weight_decay)
    weight, bias = probe.weight.requires_grad_(), probe.bias.requires_grad_()
    grads = torch.autograd.grad(objective(probe, features, labels, balance, weight_decay), (weight, bias))
    assert max(grad.abs().max().item() for grad in grads) < 1e-5


def test_the_fit_is_that_of_newtons_method() -> None:
    features, labels = blobs(200, 3, 2, spread=4.0)
    probe = fit_probe(features, labels, 2, balance=0.0, weight_decay=0.01)
    # With two classes only the difference of the weights matters; sharing it between them halves its penalty.
    x = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    x = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], dim=1)
    penalty = torch.tensor([0.005, 0.005, 0.005, 0.0], dtype=torch.float64)
    theta = torch.zeros(4, dtype=torch.float64)
    for _ in range(30):
        share = torch.sigmoid(x @ theta)
        grad = x.T @ (share - labels) / 200 + penalty * theta
        theta -= torch.linalg.solve(x.T @ ((share * (1 - share))[:, None] * x) / 200 + penalty.diag(), grad)
    found = torch.cat([probe.weight[1] - probe.weight[0], probe.bias[1:] - probe.bias[:1]])
    torch.testing.assert_close(found, theta, rtol=1e-3, atol=1e-3)


def test_balance_makes_rare_classes_more_frequent() -> None:
    features, labels = uneven(3000, 4, spread=6.0)
    found = [(fit_probe(features, labels, 4, balance=balance).predict(features) > 0).sum() for balance in (0, 0.5, 1)]
    assert found[0] < found[1] < found[2]


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    features, labels = blobs(300, 5, 3, spread=3.0)
    moved = features * torch.tensor([1e-3, 1.0, -10.0, 1e4, 1.0]) + torch.tensor([0.0, 9.0, -1.0, 1e5, 1e-3])
    first, second = fit_probe(features, labels, 3), fit_probe(moved, labels, 3)
    assert first.predict(features).tolist() == second.predict(moved).tolist()
    assert (first.predict(features) != labels).any()


def test_equal_inputs_make_equal_probes() -> None:
    features, labels = blobs(300, 5, 3, spread=3.0)
    first, second = (fit_probe(features.float(), labels, 3) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.dtype == torch.float32


def test_it_can_be_fitted_without_grad_mode() -> None:
    features, labels = blobs(60, 4, 3)
    with torch.no_grad():
        probe = fit_probe(features.requires_grad_(), labels, 3)
    assert not probe.weight.requires_grad
    assert probe.weight.abs().max() > 0


def test_constant_channels_change_nothing() -> None:
    features, labels = blobs(300, 4, 3, spread=3.0)
    dull = torch.full((300, 2), 0.1, dtype=torch.float64)
    dull[::2, 1] += 1e-12
    probe = fit_probe(torch.cat([features, dull], dim=1), labels, 3)
    assert torch.isfinite(probe.weight).all()
    found = probe.predict(torch.cat([features, dull], dim=1))
    assert found.tolist() == fit_probe(features, labels, 3).predict(features).tolist()


def test_a_class_without_labels_is_never_predicted() -> None:
    features, labels = blobs(300, 4, 3)
    probe = fit_probe(features, 2 * labels, 6)
    assert probe.weight.shape == (6, 4)
    predicted = probe.predict(1e3 * torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)))
    assert set(predicted.tolist()) == {0, 2, 4}


def test_a_single_class_and_a_single_point() -> None:
    features, _ = blobs(20, 4, 3)
    assert fit_probe(features, torch.full((20,), 2), 4).predict(features).tolist() == [2] * 20
    assert fit_probe(features[:1], torch.tensor([1]), 4).predict(features).tolist() == [1] * 20


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_chunks_do_not_change_predictions(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(100, 4, 3, spread=3.0)
    probe = fit_probe(features, labels, 3)
    expected = probe.predict(features)
    monkeypatch.setattr(linear_probe, "_CHUNK_ROWS", piece)
    assert torch.equal(probe.predict(features), expected)
    assert probe.predict(features[:0]).shape == (0,)
    assert expected.dtype == probe.predict(features[:0]).dtype == torch.int64


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_probe(torch.tensor([[0.0], [math.nan]]), torch.tensor([0, 1]), 2)


def test_rows_of_the_confusion_matrix_are_labels() -> None:
    counts = confusion_counts(torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 0]), 3)
    assert counts.tolist() == [[2, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert counts.dtype == torch.int64
    empty = torch.tensor([], dtype=torch.int64)
    assert confusion_counts(empty, empty, 2).sum() == 0


def test_scores_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2000,), generator=generator)
    predicted = torch.where(torch.rand(2000, generator=generator) < 0.6, labels, labels.roll(7))
    scores = segmentation_scores(confusion_counts(predicted, labels, 5))
    iou = multiclass_jaccard_index(predicted, labels, 5, average="none")
    assert scores.per_class_iou == pytest.approx(iou.tolist())
    assert scores.miou == pytest.approx(iou.mean().item())
    assert scores.mean_accuracy == pytest.approx(multiclass_recall(predicted, labels, 5).item())
    assert scores.overall_accuracy == pytest.approx(multiclass_accuracy(predicted, labels, 5, average="micro").item())


def test_classes_without_labels_have_no_score() -> None:
    scores = segmentation_scores(torch.tensor([[6, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert scores.per_class_iou == [pytest.approx(6 / 10), pytest.approx(2 / 5), None, None]
    assert scores.miou == pytest.approx((6 / 10 + 2 / 5) / 2)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert scores.overall_accuracy == pytest.approx(8 / 12)
