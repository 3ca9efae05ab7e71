"""Measure the network on a split."""

from __future__ import annotations

import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.engine.inference import run_batches
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.tasks.base import EvaluationOutput
from toy_regression.workload import ToyWorkload


def evaluate(workload: ToyWorkload, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
    """The errors, compared with those of always predicting the mean, and every prediction."""
    loader, samples = workload.loaders[split], workload.manifest.of(split)
    target, prediction = torch.zeros(len(samples)), torch.zeros(len(samples))
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=workload.sample_unit) as bar:
        for output, batch in run_batches(workload, loader, runtime):
            assert output.logits is not None
            positions, _, target[positions] = batch
            prediction[positions] = output.logits.squeeze(1).float().cpu()
            bar.advance(samples=output.num_samples)
    error = prediction - target
    report = {
        "num_samples": len(samples),
        "loss": float(error.square().mean()),
        "mae": float(error.abs().mean()),
        "r2": float(1 - error.square().mean() / target.var(correction=0)),
        "baseline_mae": float((target - workload.mean_target).abs().mean()),
    }
    rows = zip(samples, target.tolist(), prediction.tolist(), strict=True)
    lines = ["row,target,prediction", *(f"{sample.key},{t:.6g},{p:.6g}" for sample, t, p in rows)]
    return EvaluationOutput(report, {"predictions.csv": "\n".join(lines).encode() + b"\n"})
