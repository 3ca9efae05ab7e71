"""The full report of DBBD on a split: losses, retrieval, and linear probes on point features.

Legend: N points of a scene, D channels of point features.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.engine.efficiency import measure_efficiency
from dbbd_cli.engine.inference import sum_split
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.dbbd.probe import MAX_CLASSES, census, run_probes
from dbbd_cli.tasks.dbbd.probe_features import point_features
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from dbbd_cli.tasks.scene_batches import without_ignored
from dbbd_cli.tasks.scene_labels import (
    ignored_labels,
    label_warnings,
    report_of_ignored,
    suspected_labels,
)
from dbbd_cli.tasks.scene_picture import scene_picture

_IN_CONTRAST = ("point_chance", "point_top1")
"""Metrics that the report contains only in the rows of `contrast`."""


def evaluate(
    workload: DbbdWorkload, split: str, runtime: Runtime, progress: Progress, processes: Processes = ALONE
) -> EvaluationOutput:
    """Evaluate a split: losses with their chance levels, retrieval, probes, and the data to draw the first scene."""
    loader = workload.loaders[split]
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=workload.sample_unit) as bar:
        sums = sum_split(workload, loader, runtime, bar, processes)
    metrics = workload.summarize(sums.values, sums.num_samples)
    efficiency: dict[str, Any] = {}
    if processes.is_first:
        progress.line("Measuring speed…")
        efficiency = _efficiency(workload, runtime, split)
    processes.wait()

    with processes.in_turns():
        found = census(workload, split, progress)
    tested, trained = found.tested, found.trained
    ignored = ignored_labels(workload.data, trained, tested)
    for warning in label_warnings(suspected_labels(workload.data, ignored, trained, tested), ignored, trained, tested):
        progress.warn(warning)
    probes = run_probes(workload, runtime, split, found, ignored, progress, processes)
    if not processes.is_first:
        return EvaluationOutput({})

    labels = sorted(tested.labels - ignored)[:MAX_CLASSES]
    scene = without_ignored(next(workload.single_scenes(split)), ignored)
    features = point_features(workload, workload.module.encoder, scene, runtime).cpu().numpy()
    picture = scene_picture(scene, next(workload.prepared_scenes(split)).tree, features, labels)
    report = {
        "num_samples": sums.num_samples,
        "num_points": sum(scene.num_points for scene in workload.prepared_scenes(split)),
        **{name: value for name, value in metrics.items() if "_level_" not in name and name not in _IN_CONTRAST},
        "contrast": list(_contrast(metrics)),
        **probes,
        "ignored_labels": report_of_ignored(tested, ignored),
        "efficiency": efficiency,
        "scene": {
            "name": workload.names(scene, split)[0],
            "classes": [workload.class_name(label) for label in labels],
        },
    }
    return EvaluationOutput(report, {SCENE_FILE: _npz(picture)})


def _efficiency(workload: DbbdWorkload, runtime: Runtime, split: str) -> dict[str, Any]:
    raw_batch = next(workload.loaders[split].batches(epoch=0))
    size = len(raw_batch.num_points)
    batch = workload.to_device(raw_batch, runtime.device, train=False)
    speed = measure_efficiency(workload.module, batch, runtime, batch_size=size)
    return {**speed, "points_per_second": speed["samples_per_second"] * int(raw_batch.num_points.sum()) / size}


def _contrast(metrics: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """The contrastive task on each level, and over points: number of candidates, loss, chance level, top-1 accuracy."""
    levels = sorted(int(name.rpartition("_")[2]) for name in metrics if name.startswith("loss_level_"))
    named = [(f"level {level}", *(f"{what}_level_{level}" for what in ("loss", "chance", "top1"))) for level in levels]
    for title, loss, chance, top1 in [*named, ("points", "point_loss", *_IN_CONTRAST)]:
        yield {
            "name": title,
            "rows": float(np.exp(metrics[chance])),
            "loss": metrics[loss],
            "chance": metrics[chance],
            "top1": metrics[top1],
        }


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()
