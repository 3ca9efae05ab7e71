"""The full report of a classifier on a split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.urls.cleaning import host_of
from dbbd_cli.engine.efficiency import count_multiply_adds, measure_efficiency, spread, times_ms
from dbbd_cli.engine.inference import run_batches
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.calibration import calibrated, choose_threshold, fit_calibration
from dbbd_cli.report.classification.gallery import MAX_PICTURES, PICTURES_FILE, pictures_file
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.classification_intervals import Resampling
from dbbd_cli.tasks.classification_report import calibration_interval, calibration_of, classification_report
from dbbd_cli.tasks.classifier_baselines import baselines
from dbbd_cli.tasks.classifier_workload import ClassifierWorkload

MAX_ERRORS = 20
"""Errors that are listed."""


@dataclass(frozen=True)
class _Outputs:
    """What the network says about a split.

    Attributes:
        logits: `(N, K)`, float64.
        labels: `(N,)`.
        hosts: the host of each sample; None if samples are not URLs.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    hosts: list[str] | None

    def resampling(self) -> Resampling:
        return Resampling(len(self.labels), self.hosts)


def evaluate_classifier(
    workload: ClassifierWorkload,
    split: str,
    runtime: Runtime,
    progress: Progress,
    processes: Processes = ALONE,
    other: ClassifierWorkload | None = None,
) -> EvaluationOutput:
    """Every metric with its interval, calibration, baselines and the worst errors, and the predictions as CSV.

    Args:
        workload: the data and network of the run, with loaders for the split and for validation.
        split: the split to report on.
        runtime: device and precision.
        progress: shows bars.
        processes: those that run the network; the first one alone makes the report.
        other: another data set, whose split is reported on instead, with the same network.
    """
    measured = other or workload
    outputs = _run(measured, runtime, split, processes, progress)
    validation = outputs if other is None and split == "val" else _run(workload, runtime, "val", processes, progress)
    if not processes.is_first:
        return EvaluationOutput({})
    progress.line("Measuring speed and computing metrics…")
    classes, positive_class = workload.manifest.classes, workload.positive_class
    positive = None if positive_class is None else classes.index(positive_class)
    resampling = outputs.resampling()
    calibration = _calibrate(validation, positive, positive_class, workload.false_positive_rate)
    logits = calibrated(outputs.logits, calibration["temperature"], calibration["bias"])
    report = classification_report(logits, outputs.labels, classes, positive_class, resampling)
    report["intervals"]["group"] = "samples" if outputs.hosts is None else "hosts"
    report["calibration"] = {**calibration, "loss": report["loss"], "before": _before(outputs, resampling)}
    # That of training and validation, which other runs can be compared by.
    report["loss"] = float(F.cross_entropy(outputs.logits, outputs.labels))
    if positive is not None and "threshold" in calibration:
        report["calibration"]["at_threshold"] = _at_threshold(
            F.softmax(logits, dim=1)[:, positive] >= calibration["threshold"], outputs.labels == positive, resampling
        )
    report["baselines"] = baselines(
        workload.urls("train"),
        torch.tensor([sample.label for sample in workload.manifest.of("train")]),
        workload.urls("val"),
        validation.labels,
        measured.urls(split),
        outputs.labels,
        correct=logits.argmax(1) == outputs.labels,
        num_classes=len(classes),
        positive=positive,
        resampling=resampling,
        train_properties=workload.properties("train"),
        properties=measured.properties(split),
    )
    files = {"predictions.csv": _predictions(measured, split, logits).encode("utf-8")}
    wrong = _most_confident_errors(logits, outputs.labels)
    report["errors"] = _errors(measured, split, logits, wrong)
    pictures = measured.pictures(split, wrong[:MAX_PICTURES]) if wrong else None
    if pictures is not None:
        files[PICTURES_FILE] = pictures_file(pictures)
    if other is not None:
        report["shared_with_training"] = _shared_with_training(workload, other, split)
    report["efficiency"] = _efficiency(measured, split, runtime)  # last: other processes may need some time to end
    return EvaluationOutput(report, files, calibration)


def _run(
    workload: ClassifierWorkload, runtime: Runtime, split: str, processes: Processes, progress: Progress
) -> _Outputs:
    """Logits and labels of the split in the manifest's order, whatever order the loader has."""
    loader = workload.loaders[split]
    logits = torch.zeros(loader.num_samples, len(workload.manifest.classes))
    labels = torch.zeros(loader.num_samples, dtype=torch.long)
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=workload.sample_unit) as bar:
        for samples, of_batch, labels_of_batch in processes.in_order(_batches(workload, loader, runtime, processes)):
            logits[samples] = of_batch
            labels[samples] = labels_of_batch
            bar.advance(samples=len(samples))
    urls = workload.urls(split)
    return _Outputs(logits.double(), labels, None if urls is None else [host_of(url) for url in urls])


def _batches(
    workload: ClassifierWorkload, loader: BatchLoader, runtime: Runtime, processes: Processes
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Places in the manifest's order, logits and labels of the batches that this process computes."""
    for output, batch in run_batches(workload, loader, runtime, processes=processes):
        assert output.logits is not None
        yield batch.samples, output.logits.float().cpu(), batch.labels


def _efficiency(workload: ClassifierWorkload, split: str, runtime: Runtime) -> dict[str, Any]:
    """Size and speed of the network, measured on the first batch of a split."""
    network = workload.module.get_submodule("network")
    inputs, _ = workload.to_device(next(workload.loaders[split].batches(epoch=0)), runtime.device, train=False)
    return {
        **measure_efficiency(network, (inputs,), runtime, batch_size=len(inputs)),
        "multiply_adds": count_multiply_adds(network, inputs[:1]),
        "ms_per_sample": spread(times_ms(network, (inputs[:1],), runtime)),
    }


def _calibrate(
    validation: _Outputs, positive: int | None, positive_class: str | None, wanted_rate: float
) -> dict[str, Any]:
    """Temperature, biases and, with two classes, decision threshold, fitted on the validation split."""
    temperature, bias = fit_calibration(validation.logits, validation.labels)
    found: dict[str, Any] = {
        "split": "val",
        "num_samples": len(validation.labels),
        "temperature": temperature,
        "bias": bias,
        "positive_class": positive_class,
    }
    if positive is None or not bool((validation.labels != positive).any()):
        return found
    scores = F.softmax(calibrated(validation.logits, temperature, bias), dim=1)[:, positive]
    negative = validation.labels != positive
    threshold = choose_threshold(scores, ~negative, wanted_rate)
    flagged = scores >= threshold
    bounds = validation.resampling().share(flagged, negative)
    assert bounds is not None
    return {
        **found,
        "false_positive_rate": wanted_rate,
        "threshold": threshold,
        "achieved": {"rate": float(flagged[negative].double().mean()), "low": bounds[0], "high": bounds[1]},
    }


def _before(outputs: _Outputs, resampling: Resampling) -> dict[str, Any]:
    """Accuracy and reliability before calibration; `train` and `validate` report this accuracy."""
    probabilities = F.softmax(outputs.logits, dim=1)
    correct = probabilities.argmax(1) == outputs.labels
    error, reliability = calibration_of(probabilities, correct)
    return {
        "accuracy": float(correct.double().mean()),
        "expected_calibration_error": error,
        "interval": calibration_interval(probabilities, correct, resampling),
        "reliability": reliability,
    }


def _at_threshold(flagged: torch.Tensor, is_positive: torch.Tensor, resampling: Resampling) -> dict[str, Any]:
    """What the threshold is worth on the split."""
    return {
        name: {"value": float((flagged & among).sum() / among.sum()), "interval": resampling.share(flagged, among)}
        for name, among in (("false_positive_rate", ~is_positive), ("recall", is_positive))
        if bool(among.any())
    }


def _most_confident_errors(logits: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """The places of the wrong predictions with the highest calibrated probability, highest first."""
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    order = confidence.sort(descending=True, stable=True).indices
    return order[predicted[order] != labels[order]][:MAX_ERRORS].tolist()


def _errors(
    workload: ClassifierWorkload, split: str, logits: torch.Tensor, places: Sequence[int]
) -> list[dict[str, Any]]:
    """Samples with their true and predicted class, and the calibrated probability of the latter."""
    classes, samples = workload.manifest.classes, workload.manifest.of(split)
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    return [
        {
            "sample": samples[place].key,
            "class": classes[samples[place].label],
            "predicted": classes[int(predicted[place])],
            "probability": float(confidence[place]),
        }
        for place in places
    ]


def _shared_with_training(workload: ClassifierWorkload, other: ClassifierWorkload, split: str) -> dict[str, int | None]:
    """How many samples of another data set are also in the training split, and how many have a host from it."""
    known = {sample.sha256 for sample in workload.manifest.of("train")}
    train_urls, urls = workload.urls("train"), other.urls(split)
    hosts = None
    if train_urls is not None and urls is not None:
        known_hosts = {host_of(url) for url in train_urls}
        hosts = sum(host_of(url) in known_hosts for url in urls)
    return {"samples": sum(sample.sha256 in known for sample in other.manifest.of(split)), "hosts": hosts}


def _predictions(workload: ClassifierWorkload, split: str, logits: torch.Tensor) -> str:
    """One row per sample: path, true class, predicted class, and the calibrated probability of each class."""
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
