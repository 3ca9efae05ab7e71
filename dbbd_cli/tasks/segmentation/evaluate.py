"""The full report of a segmentation on a split: scores with intervals, confusion matrix, baselines, one scene.

Legend: N points of a scene, S scenes, K classes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.random_numbers import BOOTSTRAP, uniform
from dbbd_cli.engine.efficiency import measure_efficiency
from dbbd_cli.engine.inference import sum_split
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.dbbd.segmentation import IGNORED
from dbbd_cli.model.linear_probe import confusion_counts, segmentation_scores
from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.scene_picture import scene_picture
from dbbd_cli.tasks.segmentation.baselines import baselines
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)


def evaluate(
    workload: SegmentationWorkload,
    tested: SegmentationWorkload,
    split: str,
    runtime: Runtime,
    progress: Progress,
    processes: Processes = ALONE,
) -> EvaluationOutput:
    """Evaluate a network.

    Args:
        workload: of the run, whose training split the baselines learn from.
        tested: of the scenes to evaluate on, with the same network; may be the same.
        split: the split of these scenes.
        runtime: device and precision.
        progress: shows bars.
        processes: those that run the network; the first one alone makes the report.
    """
    loader = tested.loaders[split]
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=tested.sample_unit) as bar:
        sums = sum_split(tested, loader, runtime, bar, processes)
    loss = tested.summarize(sums.values, sums.num_samples)["loss"]
    efficiency: dict[str, Any] = {}
    if processes.is_first:
        progress.line("Measuring speed…")
        efficiency = _efficiency(tested, runtime, split)
    processes.wait()

    confusions, ignored = [], 0
    drawn: tuple[str, torch.Tensor] | None = None
    with progress.phase(f"Confusion of {split}", len(tested.manifest.of(split)), unit="scenes") as bar:
        for of_scene, num_ignored, picture in processes.in_order(_judged_scenes(tested, split, runtime, processes)):
            confusions.append(of_scene)
            ignored += num_ignored
            drawn = drawn or picture
            bar.advance()
    if not processes.is_first:
        return EvaluationOutput({})
    by_scene = torch.stack(confusions)
    confusion = by_scene.sum(0)
    scores = segmentation_scores(confusion)
    intervals = _intervals(by_scene.numpy(), tested.config.seed)
    report = {
        "num_samples": sums.num_samples,
        "num_points": int(confusion.sum()) + ignored,
        "ignored_points": ignored,
        "loss": loss,
        "miou": scores.miou,
        "mean_accuracy": scores.mean_accuracy,
        "overall_accuracy": scores.overall_accuracy,
        "miou_interval": intervals[0],
        "classes": tested.class_names,
        "class_scores": _class_scores(confusion, scores.per_class_iou, intervals[1:]),
        "confusion_matrix": confusion.tolist(),
        **baselines(workload, tested, split, by_scene, progress),
        "efficiency": efficiency,
        "scene": None if drawn is None else {"name": drawn[0], "classes": tested.class_names},
    }
    return EvaluationOutput(report, {} if drawn is None else {SCENE_FILE: drawn[1].numpy().tobytes()})


def _judged_scenes(
    tested: SegmentationWorkload, split: str, runtime: Runtime, processes: Processes
) -> Iterator[tuple[torch.Tensor, int, tuple[str, torch.Tensor] | None]]:
    """What this process's scenes of a split add to the report.

    Yields:
        The confusion matrix `(K, K)` of a scene, its number of ignored points and, for the first scene with others,
        its name and the bytes `(…)` of the file to draw it.
    """
    labels, is_drawn = tested.labels, False
    numbers = range(processes.rank, len(tested.manifest.of(split)), processes.size)
    prepared_scenes = tested.prepared_scenes(split, numbers)
    for scene, prepared in zip(tested.single_scenes(split, numbers), prepared_scenes, strict=True):
        shares = tested.shares(scene, runtime)
        assert scene.segment is not None
        classes = tested.classes(scene.segment)
        counts = classes != IGNORED
        confusion = confusion_counts(shares[counts].argmax(1), classes[counts], len(labels))
        drawn = None
        if not is_drawn and counts.any():
            is_drawn = True
            picture = scene_picture(scene, prepared.tree, shares.numpy(), labels, shares.argmax(1).numpy())
            drawn = (tested.names(scene, split)[0], torch.frombuffer(bytearray(_npz(picture)), dtype=torch.uint8))
        yield confusion, int((~counts).sum()), drawn


def _class_scores(
    confusion: torch.Tensor, ious: Sequence[float | None], intervals: Sequence[list[float] | None]
) -> list[dict[str, Any]]:
    """The row of each class in the report, from the confusion counts `(K, K)`; None for what is undefined."""
    labeled, predicted, correct = confusion.sum(1).tolist(), confusion.sum(0).tolist(), confusion.diagonal().tolist()
    return [
        {
            "iou": iou,
            "iou_interval": None if iou is None else interval,
            "accuracy": correct[place] / labeled[place] if labeled[place] else None,
            "precision": correct[place] / predicted[place] if predicted[place] else None,
            "points": labeled[place],
        }
        for place, (iou, interval) in enumerate(zip(ious, intervals, strict=True))
    ]


def _intervals(confusions: np.ndarray, seed: int) -> list[list[float] | None]:
    """95% intervals of the mean IoU and of the IoU of each class, bootstrapped over scenes; None for a single scene.

    Args:
        confusions: `(S, K, K)`.
        seed: seed of the resamples.
    """
    num_scenes, num_classes = confusions.shape[:2]
    if num_scenes < 2:
        return [None] * (1 + num_classes)
    draws = (uniform(seed, 0, np.arange(_RESAMPLES), num_scenes, purpose=BOOTSTRAP) * num_scenes).astype(np.int64)
    weights = np.stack([np.bincount(draw, minlength=num_scenes) for draw in draws]).astype(np.float64)
    correct, labeled, predicted = (
        weights @ counts
        for counts in (
            np.diagonal(confusions, axis1=1, axis2=2),
            confusions.sum(axis=2),
            confusions.sum(axis=1),
        )
    )
    iou = np.full(labeled.shape, np.nan)
    np.divide(correct, labeled + predicted - correct, out=iou, where=labeled > 0)
    occurs = (labeled > 0).sum(axis=1)
    mean = np.nansum(iou, axis=1)[occurs > 0] / occurs[occurs > 0]
    found = []
    for values in (mean, *iou.T):
        known = values[np.isfinite(values)]
        found.append(np.percentile(known, _PERCENTILES).tolist() if len(known) else None)
    return found


def _efficiency(workload: SegmentationWorkload, runtime: Runtime, split: str) -> dict[str, Any]:
    raw_batch = next(workload.loaders[split].batches(epoch=0))
    size = len(raw_batch.num_points)
    batch = workload.to_device(raw_batch, runtime.device, train=False)
    speed = measure_efficiency(workload.module, batch, runtime, batch_size=size)
    return {**speed, "points_per_second": speed["samples_per_second"] * int(raw_batch.num_points.sum()) / size}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
