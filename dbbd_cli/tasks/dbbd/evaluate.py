"""The full report of DBBD on a split: losses, retrieval, and what a linear probe finds in the features of points.

Legend: N points of a scene, D channels of point features, K classes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.engine.efficiency import measure_efficiency
from dbbd_cli.engine.inference import run_split
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Evaluation
from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE
from dbbd_cli.tasks.dbbd.labels import (
    ignored_labels,
    label_census,
    report_of_ignored,
    suspected_labels,
    warnings_of,
    without_ignored,
)
from dbbd_cli.tasks.dbbd.probe import MOST_CLASSES, point_features, run_probes, training_census
from dbbd_cli.tasks.dbbd.scene_picture import scene_picture
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload


def evaluate_points(workload: DbbdWorkload, runtime: Runtime, split: str, progress: Progress) -> Evaluation:
    """Losses beside their chance levels, retrieval and probes, and what is needed to draw the first scene."""
    loader = workload.loaders[split]
    with progress.phase(f"Evaluate {split}", len(loader), sample_unit=workload.sample_unit) as bar:
        sums = run_split(workload, loader, runtime, bar)
        sums.flush()
    metrics = workload.summarize(sums.values, sums.num_samples)
    progress.line("Measuring the speed…")
    raw_batch = next(loader.batches(epoch=0))
    size = len(raw_batch.num_points)
    batch = workload.to_device(raw_batch, runtime.device, train=False)
    speed = measure_efficiency(workload.module, batch, runtime, batch_size=size)
    tested = label_census(workload, split)
    trained, missing = training_census(workload, split, tested, progress)
    ignored = ignored_labels(workload, trained, tested)
    for warning in warnings_of(suspected_labels(workload, ignored, trained, tested), ignored, trained, tested):
        progress.warn(warning)
    probe = None
    if not missing:
        probe, missing = run_probes(workload, runtime, split, trained, tested, ignored, progress)
    labels = sorted(tested.labels - ignored)[:MOST_CLASSES]

    scene = without_ignored(next(workload.single_scenes(split)), ignored)
    features = point_features(workload, workload.module.encoder, scene, runtime).cpu().numpy()
    picture = scene_picture(scene, next(workload.prepared_scenes(split)).tree, features, labels)
    report = {
        "num_samples": sums.num_samples,
        "num_points": sum(scene.num_points for scene in workload.prepared_scenes(split)),
        **{name: value for name, value in metrics.items() if "_level_" not in name and name not in _OF_POINTS},
        "contrast": list(_contrast(metrics)),
        "probe": probe,
        "probe_missing": missing,
        "ignored_labels": report_of_ignored(tested, ignored),
        "efficiency": {
            **speed,
            "points_per_second": speed["samples_per_second"] * int(raw_batch.num_points.sum()) / size,
        },
        "scene": {
            "name": workload.names(scene, split)[0],
            "classes": [workload.class_name(label) for label in labels],
        },
    }
    return Evaluation(report, {SCENE_FILE: _npz(picture)})


_OF_POINTS = ("point_chance", "point_top1")
"""Told in the table of what is compared."""


def _contrast(metrics: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """What is told apart on each level, and among points: rows that compete, loss, chance level, correct answers."""
    levels = sorted(int(name.rpartition("_")[2]) for name in metrics if name.startswith("loss_level_"))
    named = [(f"level {level}", *(f"{what}_level_{level}" for what in ("loss", "chance", "top1"))) for level in levels]
    for title, loss, chance, top1 in [*named, ("points", "point_loss", *_OF_POINTS)]:
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
