"""Results for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbbd_cli.services.results import RunFacts, TrainResult

RUN = Path("runs/20260131-120000-qr_cnn")
FACTS = RunFacts(
    task="image_classification",
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
    best_epoch=7,
    best={"loss": 0.43215, "accuracy": 0.8013},
    best_model=RUN / "best_model.pth",
    checkpoint=RUN / "ckpt.pth",
    plots=[RUN / "training_history.png"],
)


def evaluation(classes: list[str]) -> dict[str, object]:
    """A report as `evaluate` gives it; the F1 of each class is a little higher than that of the one before."""
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
