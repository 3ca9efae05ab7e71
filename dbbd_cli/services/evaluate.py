"""The full report of a checkpoint on a split it was not trained on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.config.load import Override
from dbbd_cli.engine.checkpoint import BEST
from dbbd_cli.engine.efficiency import measure_efficiency
from dbbd_cli.engine.failures import explained
from dbbd_cli.engine.inference import place, run_batches
from dbbd_cli.engine.run_folder import finite
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.errors import ConfigError, DiskError
from dbbd_cli.files import write_text
from dbbd_cli.progress import Progress, Silent
from dbbd_cli.report.evaluation import evaluation_figures
from dbbd_cli.report.save import save_figure
from dbbd_cli.services.results import EvaluateResult
from dbbd_cli.services.session import OpenedRun, build_task, is_synthetic, load_module, open_run
from dbbd_cli.tasks.classification_report import classification_report
from dbbd_cli.tasks.image_classification import ImageClassification

EVALUATION_FORMAT = 1


def evaluate(
    target: Path,
    *,
    split: str = "test",
    out: Path | None = None,
    plots: bool = True,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Evaluates a checkpoint on exactly the images that the run's manifest gives to a split.

    Writes `evaluation.json`, `predictions.csv` and the figures.

    Args:
        target: a run folder (its best model is taken), or a checkpoint file inside one.
        split: train, val or test.
        out: folder of the files; the run's own by default.
        plots: whether figures are drawn.
        overrides: settings that replace those of the run, such as where the data is now.
        progress: shows a bar; nothing is shown by default.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split: {split!r} is no split", hint="choose one of: train, val, test")
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    task, runtime = build_task(run.config, run.manifest, splits=(split,), pretrained=False, progress=progress)
    load_module(task, run)
    place(task.module, runtime)
    with explained():
        logits, labels, efficiency = _run(task, runtime, split, progress)
    report = {
        "format": EVALUATION_FORMAT,
        "task": run.config.task,
        "checkpoint": run.path.name,
        "epoch": len(run.state.history),
        "split": split,
        "synthetic": is_synthetic(run.config),
        **classification_report(logits, labels, run.manifest.classes, task.positive_class),
        "efficiency": efficiency,
    }
    report = finite(report)
    folder = out or run.folder
    # Another split must not take the place of the report on the test split.
    tail = "" if split == "test" else f"-{split}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"evaluation{tail}.json", json.dumps(report, indent=1) + "\n")
        write_text(folder / f"predictions{tail}.csv", _predictions(run, split, logits))
    except OSError as error:
        raise DiskError(
            f"the evaluation cannot be written to {folder}: {error.strerror}",
            hint="choose another folder with --out DIR",
        ) from error
    files = [folder / f"evaluation{tail}.json", folder / f"predictions{tail}.csv"]
    if plots:
        files += [
            save_figure(figure, folder / f"{name}{tail}.png") for name, figure in evaluation_figures(report).items()
        ]
    return EvaluateResult(run=run.folder, checkpoint=run.path, report=report, files=files)


def _run(
    task: ImageClassification, runtime: Runtime, split: str, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Logits and labels of the split in the manifest's order, whatever order the loader has; and what a batch costs."""
    loader = task.loaders[split]
    logits = torch.zeros(loader.num_samples, len(task.manifest.classes))
    labels = torch.zeros(loader.num_samples, dtype=torch.long)
    with progress.phase(f"Evaluate {split}", len(loader), noun=task.noun) as bar:
        for output, batch in run_batches(task, loader, runtime):
            assert output.logits is not None
            logits[batch.samples] = output.logits.float().cpu()
            labels[batch.samples] = batch.labels
            bar.advance(samples=output.num_samples)
    progress.line("Measuring the speed and computing the metrics…")
    images, _ = task.to_device(next(loader.batches(epoch=0)), runtime.device, train=False)
    return logits, labels, measure_efficiency(task.module.network, images, runtime)


def _predictions(run: OpenedRun, split: str, logits: torch.Tensor) -> str:
    """One row per image: what it is, what it was taken for, and the probability of each class."""
    classes = run.manifest.classes
    probabilities = torch.softmax(logits, dim=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class", "predicted", *(f"p({name})" for name in classes)])
    rows = zip(run.manifest.of(split), probabilities.tolist(), strict=True)
    for sample, row in rows:
        predicted = classes[max(range(len(row)), key=row.__getitem__)]
        writer.writerow([sample.key, classes[sample.label], predicted, *(f"{value:.6f}" for value in row)])
    return text.getvalue()
