"""Linear probes: the same linear classifier on the features of the pretrained and of a random encoder, and on raw ones.

Legend: N points of a scene, M labeled points, D channels of point features, K classes, S scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.random_numbers import PROBE, uniform
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.linear_probe import LinearProbe, confusion_counts, fit_probe, segmentation_scores
from dbbd_cli.tasks.dbbd.probe_comparison import compare
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload, make_network
from dbbd_cli.tasks.scene_batches import PointBatch, without_ignored
from dbbd_cli.tasks.scene_labels import EMPTY, LabelCensus, label_census

POINTS_PER_SCENE = 2048
PROBE_POINTS = 200_000
"""Labeled points that a probe is fitted on: `POINTS_PER_SCENE` of each training scene, and at most this many in all."""
WEIGHT_DECAY = 0.01
"""Strong, because the labels come from few scenes with similar points."""
MAX_CLASSES = 200
"""More labels than this are not classes of a segmentation."""

_Extractors = Mapping[str, Callable[[PointBatch], torch.Tensor]]
"""Name to a function that computes the features `(N, D)` of a scene."""


def point_features(workload: DbbdWorkload, encoder: DbbdEncoder, scene: PointBatch, runtime: Runtime) -> torch.Tensor:
    """The features `(N, D)` of the points of a scene without augmentation, on the device.

    They come from the branch G2L, in which the features of a point depend on all regions that contain it.
    """
    with torch.no_grad(), runtime.autocast():
        return encoder.global_to_local(*workload.without_views(scene, runtime.device)).points.float()


def training_census(
    workload: DbbdWorkload, split: str, tested: LabelCensus, progress: Progress
) -> tuple[LabelCensus, str]:
    """Count the labels that a probe can be trained on.

    Args:
        workload: the network and the scenes.
        split: the split that will be scored.
        tested: its labels.
        progress: shows bars.

    Returns:
        The census, and why it is empty: "" if it is not.
    """
    if split == "train":
        return EMPTY, "the probe is trained on the training split; evaluate another one"
    if not tested.labels:
        return EMPTY, _without_labels(split, tested)
    try:
        workload.prepare("train", progress)
    except DataError as error:
        return EMPTY, f"the training scenes cannot be used: {error.message}; {error.hint}"
    return label_census(workload.config, workload.manifest, "train"), ""


def run_probes(
    workload: DbbdWorkload,
    runtime: Runtime,
    split: str,
    trained: LabelCensus,
    tested: LabelCensus,
    ignored: Set[int],
    progress: Progress,
) -> tuple[dict[str, Any] | None, str]:
    """Fit the probes on the training split and score them on another one.

    Args:
        workload: the network and the scenes, which are prepared.
        runtime: device and precision.
        split: the other split.
        trained: the labels of the training split.
        tested: the labels of the other split.
        ignored: labels that are not classes.
        progress: shows bars.

    Returns:
        The report, or None and the reason.
    """
    if reason := _no_probe(split, trained, tested, ignored):
        return None, reason
    labels = sorted((trained.labels | tested.labels) - ignored)
    extractors = _extractors(workload, runtime)
    limit = min(POINTS_PER_SCENE, max(1, PROBE_POINTS // trained.num_scenes(ignored)))
    with progress.phase("Probe: training scenes", len(workload.manifest.of("train")), unit="scenes") as bar:
        features, target = _training_points(workload, extractors, labels, ignored, limit, bar.advance)
    progress.line(f"Fitting {len(extractors)} linear probes on {len(target):,} points…")
    probes = {
        name: fit_probe(features.pop(name), target, len(labels), weight_decay=WEIGHT_DECAY) for name in extractors
    }
    with progress.phase(f"Probe: {split} scenes", len(workload.manifest.of(split)), unit="scenes") as bar:
        confusions, counts = _test(workload, split, extractors, probes, labels, ignored, bar.advance)
    return {
        "train_scenes": trained.num_scenes(ignored),
        "test_scenes": tested.num_scenes(ignored),
        "train_points": len(target),
        "test_points": int(confusions["pretrained"].sum()),
        "classes": [workload.class_name(label) for label in labels],
        "features": [
            {"name": name, "dim": len(probe.mean), **asdict(segmentation_scores(confusions[name]))}
            for name, probe in probes.items()
        ],
        **compare(counts, workload.config.seed),
    }, ""


def _no_probe(split: str, trained: LabelCensus, tested: LabelCensus, ignored: Set[int]) -> str:
    """Why no probe is possible; "" if one is."""
    learned, wanted = trained.labels - ignored, tested.labels - ignored
    if not wanted:
        return _without_labels(split, tested)
    if not learned:
        return f"the training scenes have no labels{' that are not ignored' if trained.labels else ''}"
    if len(learned) == 1:
        return "the training scenes have only one class"
    if not learned & wanted:
        return f"no class of the {split} scenes occurs in the training scenes"
    if len(learned | wanted) > MAX_CLASSES:
        return f"the scenes have {len(learned | wanted):,} different labels, too many for classes"
    return ""


def _without_labels(split: str, tested: LabelCensus) -> str:
    ignored = " that are not ignored" if tested.labels else ""
    reason = f" ({tested.unusable[0]})" if tested.unusable else ""
    return f"the scenes of the {split} split have no labels{ignored}{reason}"


def _extractors(workload: DbbdWorkload, runtime: Runtime) -> _Extractors:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.config.seed)
        untrained = make_network(workload.config)
    place(untrained, runtime)
    return {
        "pretrained": lambda scene: point_features(workload, workload.module.encoder, scene, runtime),
        "random encoder": lambda scene: point_features(workload, untrained.encoder, scene, runtime),
        # The input of the network: coordinates and features.
        "raw features": lambda scene: torch.cat(workload.without_views(scene, runtime.device)[:2], dim=1),
    }


def _training_points(
    workload: DbbdWorkload,
    extractors: _Extractors,
    labels: Sequence[int],
    ignored: Set[int],
    limit: int,
    advance: Callable[[], None],
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features `(M, D)` of each extractor, and the classes `(M,)`, of at most `limit` points of each training scene."""
    features: dict[str, list[torch.Tensor]] = {name: [] for name in extractors}
    targets = []
    for number, scene in enumerate(_scenes(workload, "train", ignored)):
        chosen = _labeled_points(scene)
        if len(chosen) > limit:
            rank = uniform(workload.config.seed, 0, np.array([number]), len(chosen), purpose=PROBE)[0]
            chosen = chosen[np.sort(np.argpartition(rank, limit)[:limit])]
        targets.append(_classes(scene, chosen, labels))
        for name, extract in extractors.items():
            features[name].append(extract(scene).cpu()[chosen])
        advance()
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(targets)


def _test(
    workload: DbbdWorkload,
    split: str,
    extractors: _Extractors,
    probes: Mapping[str, LinearProbe],
    labels: Sequence[int],
    ignored: Set[int],
    advance: Callable[[], None],
) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Confusion counts `(K, K)` of each probe over all scenes, and the counts `(S, 3, K)` that `compare` takes."""
    confusions = {name: torch.zeros(len(labels), len(labels), dtype=torch.int64) for name in probes}
    counts: dict[str, list[np.ndarray]] = {name: [] for name in probes}
    for scene in _scenes(workload, split, ignored):
        points = _labeled_points(scene)
        truth = _classes(scene, points, labels)
        for name, extract in extractors.items():
            confusion = confusion_counts(probes[name].predict(extract(scene).cpu()[points]), truth, len(labels))
            confusions[name] += confusion
            if len(points):
                sums = (confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0))
                counts[name].append(torch.stack(sums).numpy())
        advance()
    return confusions, {name: np.stack(values) for name, values in counts.items()}


def _scenes(workload: DbbdWorkload, split: str, ignored: Set[int]) -> Iterator[PointBatch]:
    return (without_ignored(scene, ignored) for scene in workload.single_scenes(split))


def _labeled_points(scene: PointBatch) -> np.ndarray:
    assert scene.segment is not None
    return np.flatnonzero(scene.segment.numpy() != IGNORE)


def _classes(scene: PointBatch, points: np.ndarray, labels: Sequence[int]) -> torch.Tensor:
    """The index of each point's label in `labels`, which is ascending."""
    assert scene.segment is not None
    return torch.from_numpy(np.searchsorted(np.asarray(labels), scene.segment.numpy()[points]))
