"""The full report of a classifier on a split."""

from __future__ import annotations

import csv
import io
from typing import Protocol

import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import host_of
from dbbd_cli.engine.efficiency import count_multiply_adds, measure_efficiency, spread, times_ms
from dbbd_cli.engine.inference import run_batches
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Workload
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.classification_intervals import Resampling
from dbbd_cli.tasks.classification_report import classification_report


class ClassifierWorkload(Workload, Protocol):
    """The workload of a classifier, whose module has a `network` that maps inputs to logits `(B, K)`."""

    @property
    def manifest(self) -> Manifest:
        """The samples and their classes."""
        ...

    @property
    def positive_class(self) -> str | None:
        """The positive class if there are two classes."""
        ...

    def urls(self, split: str) -> list[str] | None:
        """The URLs of a split as the network gets them, in the manifest's order; None if samples are not URLs."""
        ...


def evaluate_classifier(
    workload: ClassifierWorkload, split: str, runtime: Runtime, progress: Progress
) -> EvaluationOutput:
    """Every metric, and the predictions as CSV."""
    logits, labels = _run(workload, runtime, split, progress)
    progress.line("Measuring speed and computing metrics…")
    network = workload.module.get_submodule("network")
    inputs, _ = workload.to_device(next(workload.loaders[split].batches(epoch=0)), runtime.device, train=False)
    efficiency = {
        **measure_efficiency(network, (inputs,), runtime, batch_size=len(inputs)),
        "multiply_adds": count_multiply_adds(network, inputs[:1]),
        "ms_per_sample": spread(times_ms(network, (inputs[:1],), runtime)),
    }
    urls = workload.urls(split)
    groups = None if urls is None else [host_of(url) for url in urls]
    resampling = Resampling(len(labels), groups)
    report = classification_report(logits, labels, workload.manifest.classes, workload.positive_class, resampling)
    report["intervals"]["group"] = "samples" if groups is None else "hosts"
    predictions = _predictions(workload, split, logits)
    return EvaluationOutput({**report, "efficiency": efficiency}, {"predictions.csv": predictions.encode("utf-8")})


def _run(
    workload: ClassifierWorkload, runtime: Runtime, split: str, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the split in the manifest's order, whatever order the loader has."""
    loader = workload.loaders[split]
    logits = torch.zeros(loader.num_samples, len(workload.manifest.classes))
    labels = torch.zeros(loader.num_samples, dtype=torch.long)
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=workload.sample_unit) as bar:
        for output, batch in run_batches(workload, loader, runtime):
            assert output.logits is not None
            logits[batch.samples] = output.logits.float().cpu()
            labels[batch.samples] = batch.labels
            bar.advance(samples=output.num_samples)
    return logits, labels


def _predictions(workload: ClassifierWorkload, split: str, logits: torch.Tensor) -> str:
    """One row per sample: path, true class, predicted class, and the probability of each class."""
    classes = workload.manifest.classes
    probabilities = torch.softmax(logits, dim=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "predicted", *(f"p({name})" for name in classes)])
    rows = zip(workload.manifest.of(split), probabilities.tolist(), strict=True)
    for sample, row in rows:
        predicted = classes[max(range(len(row)), key=row.__getitem__)]
        writer.writerow([sample.key, classes[sample.label], predicted, *(f"{value:.6f}" for value in row)])
    return text.getvalue()
