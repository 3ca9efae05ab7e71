"""Example results of services."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from evaluation_examples import ENCODED, LABEL_EFFICIENCY

from dbbd_cli.services.results import BestValue, RunFacts, TrainResult

RUN = Path("runs/20260131-120000-qr_cnn")
FACTS = RunFacts(
    task="image_classification",
    sample_unit="images",
    progress_metrics=("loss", "accuracy"),
    data="synthetic URLs as QR codes (2 classes: benign, malicious)",
    synthetic=True,
    device="cpu",
    precision="fp32",
    model="qr_cnn",
    parameters=51_539_906,
    size_mb=196.61,
    samples={"train": 7000, "val": 1500, "test": 1500},
    batches={"train": 219, "val": 47, "test": 47},
)
TRAINED = TrainResult(
    run=RUN,
    facts=FACTS,
    epochs=10,
    seconds=444.0,
    metric="loss",
    best_epoch=7,
    best={"loss": 0.43215, "accuracy": 0.8013, "f1": 0.7991},
    best_values={"loss": BestValue(7, 0.43215), "accuracy": BestValue(9, 0.8227)},
    best_model=RUN / "best_model.pth",
    checkpoint=RUN / "ckpt.pth",
    plots=[RUN / "training_history.png"],
)


def evaluation(classes: list[str]) -> dict[str, object]:
    """A report of `evaluate` in which each class has a slightly higher F1 than the one before."""
    two = len(classes) == 2
    mean = {"precision": 0.8, "recall": 0.7, "f1": 0.75}
    spread: dict[str, Any] = {"median": 16.0, "p10": 15.0, "p90": 17.0}
    return {
        "format": 1,
        "task": "image_classification",
        "checkpoint": "best_model.pth",
        "epoch": 7,
        "split": "test",
        "synthetic": two,
        "num_samples": 1500,
        "classes": classes,
        "positive_class": classes[-1] if two else None,
        "loss": 0.4321,
        "accuracy": 0.8013,
        "per_class": [
            {"class": name, "precision": 0.8, "recall": 0.7, "f1": 0.5 + index / 10_000, "support": 750}
            for index, name in enumerate(classes)
        ],
        "macro": mean,
        "weighted": mean,
        "confusion_matrix": [[100 + row] * len(classes) for row in range(len(classes))],
        "roc_auc": 0.9 if two else None,
        "average_precision": 0.89 if two else None,
        "recall_at_fpr": {"0.01": 0.5, "0.001": 0.1} if two else None,
        "expected_calibration_error": 0.031,
        "curves": {},
        "efficiency": {
            "parameters": 51_539_906,
            "size_mb": 196.61,
            "multiply_adds": 557_200_000,
            "batch_size": 32,
            "ms_per_batch": {"median": 512.0, "p10": 500.0, "p90": 543.0},
            "ms_per_sample": spread,
            "samples_per_second": 62.5,
            "peak_memory_mb": None,
            "device": "cpu",
            "precision": "fp32",
        },
    }


EVALUATION = evaluation(["benign", "malicious"])


def pretraining(classes: list[str]) -> dict[str, object]:
    """A report of `evaluate` for DBBD; each class has a higher IoU than the one before, and the last has none."""
    ious = [index / len(classes) for index in range(len(classes) - 1)]
    features: list[dict[str, object]] = [
        {
            "name": name,
            "dim": 192,
            "miou": 0.512 * share,
            "mean_accuracy": 0.61 * share,
            "overall_accuracy": 0.84 * share,
            "per_class_iou": [*(iou * share for iou in ious), None],
        }
        for name, share in (("pretrained", 1.0), ("random encoder", 0.5), ("raw features", 0.25))
    ]
    return {
        "format": 1,
        "task": "dbbd",
        "checkpoint": "best_model.pth",
        "epoch": 7,
        "split": "test",
        "synthetic": True,
        "num_samples": 6,
        "num_points": 203_411,
        "loss": 4.75,
        "region_loss": 2.59,
        "point_loss": 4.33,
        "alignment": 0.41,
        "uniformity": -2.93,
        "feature_std": 0.083,
        "effective_rank": 31.7,
        "contrast": [
            {"name": "level 1", "rows": 14.2, "loss": 0.74, "chance": 2.64, "top1": 0.81},
            {"name": "points", "rows": 4096.0, "loss": 4.33, "chance": 8.3178, "top1": None},
        ],
        "probe": {
            "train_scenes": 28,
            "test_scenes": 6,
            "train_points": 114_688,
            "test_points": 190_000,
            "classes": classes,
            "features": features,
            "comparison": [
                {"with": "random encoder", "miou_difference": 0.256, "low": 0.2, "high": 0.3, "better": "yes"},
                {"with": "raw features", "miou_difference": -0.01, "low": -0.02, "high": 0.01, "better": "no"},
            ],
            "conclusion": "Pretraining beat a random encoder. Pretraining did not beat the raw features.",
        },
        "probe_missing": "",
        "label_efficiency": deepcopy(LABEL_EFFICIENCY),
        "encoded": deepcopy(ENCODED),
        "encoded_missing": "",
        "efficiency": {
            "parameters": 312_416,
            "size_mb": 1.19,
            "batch_size": 4,
            "ms_per_batch": {"median": 812.3, "p10": 790.1, "p90": 861.7},
            "samples_per_second": 4.92,
            "points_per_second": 168_000.0,
            "peak_memory_mb": 2210.5,
            "device": "cpu",
            "precision": "fp32",
        },
        "scene": {"name": "room00003", "classes": classes},
    }
