from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

Rows = Sequence[dict[str, Any]]


def epoch_row(epoch: int, loss: float | None, accuracy: float | None = None, *, best: bool = False) -> dict[str, Any]:
    metrics = {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}
    return {
        "kind": "epoch",
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.001,
        "train": {name: None if value is None else value / 2 for name, value in metrics.items()},
        "val": metrics,
        "best": best,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder; without rows, two epochs of which the second is the best."""

    def make(folder: str = "run-a", rows: Rows | None = None, name: str = "qr", source: str = "synthetic") -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        config = {"task": "image_classification", "run": {"name": name}, "data": {"source": source}}
        (path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        rows = [epoch_row(1, 0.7, 0.5), epoch_row(2, 0.6, 0.625, best=True)] if rows is None else rows
        (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make


def make_evaluation(classes: Sequence[str] = ("benign", "malicious"), absent: Sequence[int] = ()) -> dict[str, Any]:
    """What `evaluation.json` holds for a classifier that gets 3 of 4 images of each class right."""
    count = len(classes)
    matrix = [[0] * count for _ in classes]
    for index in set(range(count)) - set(absent):
        matrix[index][index] += 3
        matrix[index][(index + 1) % count] += 1
    drawn = range(1, 2) if count == 2 else range(count)
    roc, precision_recall = [], []
    for index in drawn:
        there = index not in absent
        score = 0.5 + index / (4 * count) if there else None
        roc.append(
            {"class": classes[index], "fpr": [0, 0.5, 1] * there, "tpr": [0, 0.9, 1] * there, "auc": score},
        )
        precision_recall.append(
            {
                "class": classes[index],
                "recall": [1, 0.5, 0] * there,
                "precision": [0.5, 0.8, 1] * there,
                "average_precision": score,
            }
        )
    scores = {"precision": 0.75, "recall": 0.75, "f1": 0.75}
    return {
        "format": 1,
        "task": "image_classification",
        "checkpoint": "best_model.pth",
        "epoch": 2,
        "split": "test",
        "synthetic": True,
        "num_samples": 4 * (count - len(absent)),
        "classes": list(classes),
        "positive_class": classes[1] if count == 2 else None,
        "loss": 0.5,
        "accuracy": 0.75,
        "per_class": [{"class": name, **scores, "support": sum(matrix[i])} for i, name in enumerate(classes)],
        "macro": scores,
        "weighted": scores,
        "confusion_matrix": matrix,
        "roc_auc": 0.87,
        "average_precision": 0.86,
        "recall_at_fpr": {"0.01": 0.3, "0.001": 0.1} if count == 2 else None,
        "expected_calibration_error": 0.04,
        "curves": {
            "roc": roc,
            "precision_recall": precision_recall,
            "reliability": {
                "bin_edges": [0.0, 0.5, 1.0],
                "confidence": [None, 0.8],
                "accuracy": [None, 0.75],
                "count": [0, 8],
            },
        },
        "efficiency": {"parameters": 51539906, "size_mb": 196.61, "ms_per_batch": {"median": 6.5}, "device": "cpu"},
    }


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[..., dict[str, Any]]:
    return make_evaluation


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    return epoch_row
