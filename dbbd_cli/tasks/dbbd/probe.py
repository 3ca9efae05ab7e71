"""What pretraining bought: the same linear probe on the trained encoder, on a random one, and on the raw input.

Legend: N points of a scene, D channels of point features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
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
from dbbd_cli.model.linear_probe import confusion_counts, fit_probe, segmentation_scores
from dbbd_cli.tasks.dbbd.batches import PointBatch
from dbbd_cli.tasks.dbbd.labels import EMPTY, LabelCensus, label_census, without_ignored
from dbbd_cli.tasks.dbbd.probe_comparison import compare
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload, make_network

POINTS_PER_SCENE = 2048
PROBE_POINTS = 200_000
"""Labeled points that a probe is fitted on: so many from each training scene, and not more than this of all."""
WEIGHT_DECAY = 0.01
"""Strong: the labels are of few scenes, whose points resemble each other."""
MOST_CLASSES = 200
"""More different labels than this are no classes of a segmentation."""

_Extract = Callable[[PointBatch], torch.Tensor]


def point_features(workload: DbbdWorkload, encoder: DbbdEncoder, scene: PointBatch, runtime: Runtime) -> torch.Tensor:
    """The features `(N, D)` of the points of a scene as it is, on the device.

    They are those of the branch G2L, in which a point knows the regions that it lies in, up to the whole scene.
    """
    with torch.no_grad(), runtime.autocast():
        return encoder.global_to_local(*workload.unchanged(scene, runtime.device)).points.float()


def training_census(
    workload: DbbdWorkload, split: str, tested: LabelCensus, progress: Progress
) -> tuple[LabelCensus, str]:
    """Counts the labels that a probe can be trained on; without any, the census is empty and the reason is given.

    Args:
        workload: the network and the scenes.
        split: the split that will be scored.
        tested: its labels.
        progress: shows bars.

    Returns:
        The census, and the reason in words; empty if there are labels.
    """
    if split == "train":
        return EMPTY, "the probe is trained on the training split; evaluate another one"
    if not tested.labels:
        return EMPTY, _without_labels(split, tested)
    try:
        workload.prepare("train", progress)
    except DataError as error:
        return EMPTY, f"the training scenes cannot be used: {error.message}; {error.hint}"
    return label_census(workload, "train"), ""


def _without_labels(split: str, tested: LabelCensus) -> str:
    ignored = " that are not ignored" if tested.labels else ""
    reason = f" ({tested.unusable[0]})" if tested.unusable else ""
    return f"the scenes of the {split} split have no labels{ignored}{reason}"


def run_probes(
    workload: DbbdWorkload,
    runtime: Runtime,
    split: str,
    trained: LabelCensus,
    tested: LabelCensus,
    ignored: Set[int],
    progress: Progress,
) -> tuple[dict[str, Any] | None, str]:
    """Fits the probes on the training split and scores them on another one.

    Args:
        workload: the network and the scenes, which are prepared.
        runtime: device and precision.
        split: the other split.
        trained: the labels of the training split.
        tested: those of the other split.
        ignored: labels that are not classes.
        progress: shows bars.

    Returns:
        The report, or None and the reason in words.
    """
    learned, wanted = trained.labels - ignored, tested.labels - ignored
    if not wanted:
        return None, _without_labels(split, tested)
    if len(learned) < 2:
        ignoring = "no labels that are not ignored" if trained.labels else "no labels"
        return None, "the training scenes have " + ("one class only" if learned else ignoring)
    if not learned & wanted:
        return None, f"no class of the {split} scenes occurs in the training scenes"
    labels = sorted(learned | wanted)
    if len(labels) > MOST_CLASSES:
        return None, f"the scenes have {len(labels):,} different labels, too many to be classes"

    num_train, num_test = len(workload.manifest.of("train")), len(workload.manifest.of(split))
    num_trained = trained.num_scenes(ignored)
    extracts = _extracts(workload, runtime)
    features: list[list[torch.Tensor]] = [[] for _ in extracts]
    targets = []
    quota = min(POINTS_PER_SCENE, max(1, PROBE_POINTS // num_trained))
    with progress.phase("Probe: training scenes", num_train, unit="scenes") as bar:
        for number, scene in enumerate(_scenes(workload, "train", ignored)):
            chosen = _labeled(scene, quota, workload.config.seed, number)
            targets.append(_class_of(scene, chosen, labels))
            for part, (_, extract) in zip(features, extracts, strict=True):
                part.append(extract(scene).cpu()[chosen])
            bar.advance()
    target = torch.cat(targets)
    progress.line(f"Fitting {len(extracts)} linear probes on {len(target):,} points…")
    probes = [fit_probe(torch.cat(part), target, len(labels), weight_decay=WEIGHT_DECAY) for part in features]
    del features

    confusions = [torch.zeros(len(labels), len(labels), dtype=torch.int64) for _ in probes]
    counts: dict[str, list[np.ndarray]] = {name: [] for name, _ in extracts}
    with progress.phase(f"Probe: {split} scenes", num_test, unit="scenes") as bar:
        for scene in _scenes(workload, split, ignored):
            known = _labeled(scene, None, workload.config.seed, 0)
            truth = _class_of(scene, known, labels)
            for confusion, probe, (name, extract) in zip(confusions, probes, extracts, strict=True):
                of_scene = confusion_counts(probe.predict(extract(scene).cpu()[known]), truth, len(labels))
                confusion += of_scene
                if len(known):
                    sums = (of_scene.diagonal(), of_scene.sum(dim=1), of_scene.sum(dim=0))
                    counts[name].append(torch.stack(sums).numpy())
            bar.advance()
    return {
        "train_scenes": num_trained,
        "test_scenes": tested.num_scenes(ignored),
        "train_points": len(target),
        "test_points": int(confusions[0].sum()),
        "classes": [workload.class_name(label) for label in labels],
        "features": [
            {"name": name, "dim": len(probe.mean), **asdict(segmentation_scores(confusion))}
            for (name, _), probe, confusion in zip(extracts, probes, confusions, strict=True)
        ],
        **compare({name: np.stack(values) for name, values in counts.items()}, workload.config.seed),
    }, ""


def _scenes(workload: DbbdWorkload, split: str, ignored: Set[int]) -> Iterator[PointBatch]:
    return (without_ignored(scene, ignored) for scene in workload.single_scenes(split))


def _extracts(workload: DbbdWorkload, runtime: Runtime) -> list[tuple[str, _Extract]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.config.seed)
        untrained = make_network(workload.config)
    place(untrained, runtime)
    return [
        ("pretrained", lambda scene: point_features(workload, workload.module.encoder, scene, runtime)),
        ("random encoder", lambda scene: point_features(workload, untrained.encoder, scene, runtime)),
        # All that the network is given of a point.
        ("raw features", lambda scene: torch.cat(workload.unchanged(scene, runtime.device)[:2], dim=1)),
    ]


def _labeled(scene: PointBatch, most: int | None, seed: int, number: int) -> torch.Tensor:
    """The points of a scene that have a label; where there are more than `most`, that many, drawn at random."""
    assert scene.segment is not None
    known = np.flatnonzero(scene.segment.numpy() != IGNORE)
    if most is not None and len(known) > most:
        rank = uniform(seed, 0, np.array([number]), len(known), purpose=PROBE)[0]
        known = known[np.sort(np.argpartition(rank, most)[:most])]
    return torch.from_numpy(known)


def _class_of(scene: PointBatch, points: torch.Tensor, labels: Sequence[int]) -> torch.Tensor:
    """The place of each point's label among all labels, which are ascending."""
    assert scene.segment is not None
    return torch.from_numpy(np.searchsorted(np.asarray(labels), scene.segment[points].numpy()))
