"""What pretraining bought: the same linear probe on the trained encoder, on a random one, and on the raw input.

Legend: N points of a scene, D channels of point features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dbbd_cli.data.random_numbers import PROBE, uniform
from dbbd_cli.data.scene import IGNORE
from dbbd_cli.data.scene_cache import PreparedScene
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.dbbd_encoder import DbbdEncoder
from dbbd_cli.model.linear_probe import confusion_counts, fit_probe, segmentation_scores
from dbbd_cli.progress import Progress
from dbbd_cli.tasks.point_batches import PointBatch
from dbbd_cli.tasks.point_pretraining import PointPretraining, make_network

POINTS_PER_SCENE = 2048
PROBE_POINTS = 200_000
"""Labelled points that a probe is fitted on: so many from each training scene, and not more than this of all."""
WEIGHT_DECAY = 0.01
"""Strong: the labels are of few scenes, whose points resemble each other."""
MOST_CLASSES = 200
"""More different labels than this are no classes of a segmentation."""

_Extract = Callable[[PointBatch], torch.Tensor]


def point_features(task: PointPretraining, encoder: DbbdEncoder, scene: PointBatch, runtime: Runtime) -> torch.Tensor:
    """The features `(N, D)` of the points of a scene as it is, on the device.

    They are those of the branch G2L, in which a point knows the regions that it lies in, up to the whole scene.
    """
    with torch.no_grad(), runtime.autocast():
        return encoder.global_to_local(*task.unchanged(scene, runtime.device)).points.float()


def labels_of(task: PointPretraining, split: str) -> list[int]:
    """The labels that occur in the training scenes or in those of another split, ascending."""
    found: set[int] = set()
    for name in {"train", split}:
        for scene in task.prepared_scenes(name):
            if scene.segment is not None:
                found.update(np.unique(scene.segment).tolist())
    return sorted(found - {IGNORE})


def run_probes(
    task: PointPretraining, runtime: Runtime, split: str, labels: Sequence[int], progress: Progress
) -> tuple[dict[str, Any] | None, str]:
    """Fits the probes on the training split and scores them on another one.

    Args:
        task: the network and the scenes.
        runtime: device and precision.
        split: the other split.
        labels: those of both splits, ascending: the K classes.
        progress: shows bars.

    Returns:
        The report, or None and the reason in words.
    """
    if split == "train":
        return None, "the probe is trained on the training split; evaluate another one"
    if len(labels) > MOST_CLASSES:
        return None, f"the scenes have {len(labels):,} different labels, too many to be classes"
    num_train, num_test = len(task.manifest.of("train")), len(task.manifest.of(split))
    quota = min(POINTS_PER_SCENE, max(1, PROBE_POINTS // num_train))
    rows = [
        _labelled(scene, quota, task.config.seed, number) for number, scene in enumerate(task.prepared_scenes("train"))
    ]
    known = np.unique(np.concatenate([found for _, found in rows]))
    if len(known) < 2:
        return None, "the training scenes have " + ("one class only" if len(known) else "no labels")

    extracts = _extracts(task, runtime)
    parts: list[list[torch.Tensor]] = [[] for _ in extracts]
    with progress.phase("Probe: training scenes", num_train, unit="scenes") as bar:
        for scene, (chosen, _) in zip(task.single_scenes("train"), rows, strict=True):
            for part, (_, extract) in zip(parts, extracts, strict=True):
                part.append(extract(scene)[torch.from_numpy(chosen).to(runtime.device)])
            bar.advance()
    target = _class_of(np.concatenate([found for _, found in rows]), labels).to(runtime.device)
    progress.line(f"Fitting {len(extracts)} linear probes on {len(target):,} points…")
    probes = [fit_probe(torch.cat(part), target, len(labels), weight_decay=WEIGHT_DECAY) for part in parts]
    del parts

    confusions = [torch.zeros(len(labels), len(labels), dtype=torch.int64, device=runtime.device) for _ in probes]
    with progress.phase(f"Probe: {split} scenes", num_test, unit="scenes") as bar:
        for scene in task.single_scenes(split):
            assert scene.segment is not None
            known = (scene.segment >= 0).numpy()
            truth = _class_of(scene.segment.numpy()[known], labels).to(runtime.device)
            for confusion, probe, (_, extract) in zip(confusions, probes, extracts, strict=True):
                predicted = probe.predict(extract(scene)[torch.from_numpy(known).to(runtime.device)])
                confusion += confusion_counts(predicted, truth, len(labels))
            bar.advance()
    test_points = int(confusions[0].sum())
    if test_points == 0:
        return None, f"the scenes of the {split} split have no labels"
    return {
        "train_scenes": num_train,
        "test_scenes": num_test,
        "train_points": len(target),
        "test_points": test_points,
        "classes": [task.class_name(label) for label in labels],
        "features": [
            {"name": name, "dim": len(probe.mean), **asdict(segmentation_scores(confusion))}
            for (name, _), probe, confusion in zip(extracts, probes, confusions, strict=True)
        ],
    }, ""


def _extracts(task: PointPretraining, runtime: Runtime) -> list[tuple[str, _Extract]]:
    with torch.random.fork_rng():
        torch.manual_seed(task.config.seed)
        untrained = make_network(task.config)
    place(untrained, runtime)
    return [
        ("pretrained", lambda scene: point_features(task, task.module.encoder, scene, runtime)),
        ("random encoder", lambda scene: point_features(task, untrained.encoder, scene, runtime)),
        ("raw features", lambda scene: task.unchanged(scene, runtime.device)[1]),
    ]


def _labelled(scene: PreparedScene, quota: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a scene that have a label, drawn at random, and their labels."""
    segment = np.empty(0, np.int32) if scene.segment is None else np.asarray(scene.segment)
    known = np.flatnonzero(segment >= 0)
    if len(known) > quota:
        rank = uniform(seed, 0, np.array([number]), len(known), purpose=PROBE)[0]
        known = known[np.sort(np.argpartition(rank, quota)[:quota])]
    return known, segment[known]


def _class_of(labels: np.ndarray, known: Sequence[int]) -> torch.Tensor:
    """The place of each label among the known ones, which are ascending."""
    return torch.from_numpy(np.searchsorted(np.asarray(known), labels))
