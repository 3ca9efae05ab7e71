from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluation_examples import ENCODED, LABEL_EFFICIENCY

from dbbd_cli.engine import efficiency
from dbbd_cli.model.linear_probe import fit_probe
from dbbd_cli.tasks import forest_baseline
from dbbd_cli.tasks.dbbd import label_efficiency

Rows = Sequence[dict[str, Any]]


@pytest.fixture(autouse=True)
def _cheap_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these tests looks at how fast anything is, or at how well a probe is fitted."""
    monkeypatch.setattr(efficiency, "WARM_UP_RUNS", 1)
    monkeypatch.setattr(efficiency, "TIMED_RUNS", 2)
    monkeypatch.setattr(label_efficiency, "fit_probe", partial(fit_probe, max_iterations=8))
    monkeypatch.setattr(label_efficiency, "FEW_ITERATIONS", 8)
    monkeypatch.setattr(forest_baseline, "TREES", 3)


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
    """Writes a run folder; without rows, two epochs of which the second is the best; more sections as given."""

    def make(
        folder: str = "run-a",
        rows: Rows | None = None,
        name: str = "qr",
        source: str = "synthetic",
        task: str = "image_classification",
        **sections: Any,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        config = {"task": task, "run": {"name": name}, "data": {"source": source}, **sections}
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


def put_value(evaluation: dict[str, Any], key: str, value: object) -> None:
    """Replaces the value at a dotted key, such as `curves.roc.0.fpr`."""
    *parents, last = key.split(".")
    place: Any = evaluation
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[int(last) if last.isdigit() else last] = value


@pytest.fixture(scope="session")
def put() -> Callable[..., None]:
    return put_value


def make_pretraining(classes: Sequence[str] = ("floor", "wall", "chair")) -> dict[str, Any]:
    """What `evaluation.json` holds for DBBD pretraining; the last class does not occur in the split."""
    count = len(classes)
    ious = [0.9 - 0.8 * index / count for index in range(count - 1)]
    features = [
        {
            "name": name,
            "dim": dim,
            "miou": 0.5 * share,
            "mean_accuracy": 0.6 * share,
            "overall_accuracy": 0.8 * share,
            "per_class_iou": [*(iou * share for iou in ious), None],
        }
        for name, dim, share in (("pretrained", 192, 1.0), ("random encoder", 192, 0.5), ("raw features", 3, 0.25))
    ]
    return {
        "format": 1,
        "task": "dbbd",
        "checkpoint": "best_model.pth",
        "epoch": 2,
        "split": "test",
        "synthetic": True,
        "num_samples": 6,
        "num_points": 203411,
        "loss": 3.1,
        "region_loss": 1.5,
        "point_loss": 3.2,
        "alignment": 0.4,
        "uniformity": -2.9,
        "feature_std": 0.08,
        "effective_rank": 31.7,
        "contrast": [
            {"name": "level 1", "rows": 32.0, "loss": 1.5, "chance": 3.4657, "top1": 0.75},
            {"name": "points", "rows": 4096.0, "loss": 8.5, "chance": 8.3178, "top1": 0.125},
        ],
        "probe": {
            "train_scenes": 28,
            "test_scenes": 6,
            "train_points": 114688,
            "test_points": 190000,
            "classes": list(classes),
            "features": features,
            "conclusion": "Pretraining did not beat a random encoder: its mIoU is lower by 3.2 percentage points.",
        },
        "probe_missing": "",
        "label_efficiency": deepcopy(LABEL_EFFICIENCY),
        "encoded": deepcopy(ENCODED),
        "encoded_missing": "",
        "efficiency": {
            "parameters": 312416,
            "size_mb": 1.19,
            "ms_per_batch": {"median": 812.5},
            "points_per_second": 168000.0,
        },
        "scene": {"name": "room00003", "classes": list(classes)},
    }


def make_scene(points: int = 400, labels: bool = True) -> dict[str, np.ndarray]:
    """What `evaluation_scene.npz` holds: a room of 4 by 3 by 2.5 meters whose last third is its ceiling."""
    rng = np.random.default_rng(0)
    coord = (rng.random((points, 3)) * [4, 3, 1]).astype(np.float32)
    coord[-points // 3 :, 2] = 2.5
    scene = {
        "coord": coord,
        "color": rng.integers(0, 256, (points, 3), np.uint8),
        "region": np.stack([np.zeros(points), coord[:, 0] // 1, coord[:, 0] // 0.5]).astype(np.int32),
    }
    if labels:
        scene["segment"] = np.where(coord[:, 0] > 3, -1, (coord[:, 1] > 1.5)).astype(np.int32)
    return scene


@pytest.fixture(scope="session")
def pretraining_of() -> Callable[..., dict[str, Any]]:
    return make_pretraining


@pytest.fixture(scope="session")
def scene_of() -> Callable[..., dict[str, np.ndarray]]:
    return make_scene


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    return epoch_row
