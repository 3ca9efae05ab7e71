"""Judge features by linear probes: the pretrained encoder's, a random one's and the input itself, on the same points.

Legend: N points of a scene, M labeled points, D channels of features, K classes, S scenes, P probes of a kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.engine.processes import Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.linear_probe import LinearProbe, confusion_counts, segmentation_scores
from dbbd_cli.tasks.dbbd.encoded import MAX_TRAINING_SCENES, Encoded, Sampled
from dbbd_cli.tasks.dbbd.geometry_forest import FOREST, forest_confusions
from dbbd_cli.tasks.dbbd.label_efficiency import Draw, LabeledPoints, choose_points, curve, draw_scenes, fit_draws
from dbbd_cli.tasks.dbbd.probe_comparison import compare
from dbbd_cli.tasks.dbbd.probe_features import Extractors, SceneFeatures, make_extractors, num_channels, path_levels
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from dbbd_cli.tasks.scene_batches import PointBatch, without_ignored
from dbbd_cli.tasks.scene_labels import EMPTY, LabelCensus, label_census

POINTS_PER_SCENE = 2048
PROBE_POINTS = 200_000
"""Labeled points that a probe is fitted on: `POINTS_PER_SCENE` of each training scene, and at most this many in all."""
_MAX_VALUES = 50_000_000
"""Values of the features of these points, 200 MB of each kind; fewer points if there are many channels."""
MAX_CLASSES = 200
"""More labels than this are not classes of a segmentation."""
_CHUNK = 1 << 12
"""Points whose features are put together at once."""
_Labeled = tuple[int, torch.Tensor, dict[str, torch.Tensor]]
"""The number of a training scene, the classes `(M,)` of its chosen points, and their features `(M, D)` of each kind."""


@dataclass(frozen=True)
class Census:
    """The labels of both splits.

    Attributes:
        trained: of the training split.
        tested: of the evaluated split.
        unusable: why there are no training scenes; "" if there are.
        no_labels: why there are no labels to learn; "" if there are.
    """

    trained: LabelCensus
    tested: LabelCensus
    unusable: str
    no_labels: str


def census(workload: DbbdWorkload, split: str, progress: Progress) -> Census:
    """Count the labels of a split, which is prepared, and those of the training split, which gets prepared."""
    tested = label_census(workload.config, workload.manifest, split)
    if split == "train":
        reason = "the probe is trained on the training split; evaluate another one"
        return Census(EMPTY, tested, reason, reason)
    no_labels = "" if tested.labels else _without_labels(split, tested)
    try:
        workload.prepare("train", progress)
    except DataError as error:
        reason = f"the training scenes cannot be used: {error.message}; {error.hint}"
        return Census(EMPTY, tested, reason, no_labels or reason)
    trained = EMPTY if no_labels else label_census(workload.config, workload.manifest, "train")
    return Census(trained, tested, "", no_labels)


def run_probes(
    workload: DbbdWorkload,
    runtime: Runtime,
    split: str,
    labels: Census,
    ignored: Set[int],
    progress: Progress,
    processes: Processes,
) -> dict[str, Any]:
    """Fit the probes on the training split and score them on another one.

    Args:
        workload: the network and the scenes, which are prepared.
        runtime: device and precision.
        split: the other split.
        labels: what `census` returned.
        ignored: labels that are not classes.
        progress: shows bars.
        processes: those that compute the features and fit the probes.

    Returns:
        `probe`, `label_efficiency` and `encoded` of the report, each None if it is missing; and why, "" if it is there:
        `probe_missing` and `encoded_missing`. Nothing in other processes than the first.
    """
    missing = labels.no_labels or _no_probe(split, labels.trained, labels.tested, ignored)
    if labels.unusable:
        return {
            "probe": None, "probe_missing": missing, "label_efficiency": None,
            "encoded": None, "encoded_missing": labels.unusable,
        }  # fmt: skip
    classes = [] if missing else sorted((labels.trained.labels | labels.tested.labels) - ignored)
    probing = _Probing(workload, runtime, split, classes, ignored, progress, processes)
    probing.train(labels.trained.num_scenes(ignored))
    probing.test()
    if not processes.is_first:
        return {}
    found = {"encoded": probing.encoded.report(), "encoded_missing": ""}
    if missing:
        return {"probe": None, "probe_missing": missing, "label_efficiency": None, **found}
    counts = {"train_scenes": labels.trained.num_scenes(ignored), "test_scenes": labels.tested.num_scenes(ignored)}
    return {
        "probe": {**counts, **probing.report()},
        "probe_missing": "",
        "label_efficiency": {**counts, **probing.label_efficiency()},
        **found,
    }


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


class _Probing:
    """One pass over the training scenes and one over the others, with all probes.

    Args:
        workload: the network and the scenes.
        runtime: device and precision.
        split: the split to score the probes on.
        labels: the labels that are classes, ascending; none if only regressions are fitted.
        ignored: labels that are not.
        progress: shows bars.
        processes: those among which the scenes are divided; all of them get all results.
    """

    def __init__(
        self,
        workload: DbbdWorkload,
        runtime: Runtime,
        split: str,
        labels: Sequence[int],
        ignored: Set[int],
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.workload = workload
        self.split = split
        self.labels = labels
        self.ignored = ignored
        self.progress = progress
        self.processes = processes
        levels = path_levels(workload, ("train", split))
        self.channels = num_channels(workload, levels)
        self.extractors: Extractors = make_extractors(workload, runtime, levels)
        self.encoded = Encoded(workload.config.seed)
        self.limit = 0
        self.num_points = 0
        self.draws: list[Draw] = []
        self.probes: dict[str, list[LinearProbe]] = {}
        self.dims: dict[str, int] = {}
        self.confusions: dict[str, torch.Tensor] = {}
        self.counts: dict[str, list[np.ndarray]] = {name: [] for name in self.extractors}

    def train(self, num_labeled: int) -> None:
        """Fit all probes; `num_labeled` training scenes have labels."""
        total = len(self.workload.manifest.of("train"))
        few = -(-total // MAX_TRAINING_SCENES)
        step = 1 if self.labels else few
        most = min(PROBE_POINTS, _MAX_VALUES // self.channels)
        self.limit = min(POINTS_PER_SCENE, max(1, most // max(num_labeled, 1)))
        features: dict[str, list[torch.Tensor]] = {name: [] for name in self.extractors}
        classes, numbers = [], []
        chosen = range(0, total, step)
        with self.progress.phase("Probe: training scenes", len(chosen), unit="scenes") as bar:
            for regressed, labeled in self.processes.in_order(self._training_scenes(chosen, few)):
                if regressed is not None:
                    self.encoded.add(*regressed)
                if labeled is not None:
                    number, classes_of_scene, found = labeled
                    classes.append(classes_of_scene)
                    numbers.append(torch.full((len(classes_of_scene),), number))
                    for name, rows in found.items():
                        features[name].append(rows)
                bar.advance()
        if self.labels:
            joined = {name: torch.cat(features.pop(name)) for name in self.extractors}
            self._fit(LabeledPoints(joined, torch.cat(classes), torch.cat(numbers)), total)

    def _training_scenes(self, numbers: range, few: int) -> Iterator[tuple[Sampled | None, _Labeled | None]]:
        """What the regressions and what the probes learn from this process's part of these training scenes.

        The regressions learn from every `few`-th training scene.
        """
        for scene in self.workload.single_scenes("train", self._own(numbers)):
            number = int(scene.samples)
            found = {name: extract(scene) for name, extract in self.extractors.items()}
            regressed = self.encoded.training_rows(scene, found) if number % few == 0 else None
            labeled = None
            if self.labels:
                segment = _segment(scene, self.ignored)
                chosen = choose_points(segment, self.limit, number, self.workload.config.seed)
                rows = {name: parts.of(torch.from_numpy(chosen)) for name, parts in found.items()}
                labeled = (number, self._classes(segment[chosen]), rows)
            yield regressed, labeled

    def _own(self, numbers: range) -> range:
        return numbers[self.processes.rank :: self.processes.size]

    def _fit(self, points: LabeledPoints, num_scenes: int) -> None:
        config = self.workload.config
        labeled = points.scene.unique().tolist()
        self.num_points = len(points.classes)
        self.draws = draw_scenes(labeled, num_scenes, config.probe.scenes, config.probe.draws, config.seed)
        total = len(self.draws) * len(self.extractors)
        with self.progress.phase(f"Fitting probes on {self.num_points:,} points", total, unit="probes") as bar:
            for name, features in points.features.items():
                self.dims[name] = features.shape[1]
                self.probes[name] = fit_draws(
                    features, points, self.draws, len(self.labels), bar.advance, self.processes
                )

    def test(self) -> None:
        """Score all probes."""
        shape = (len(self.draws), len(self.labels), len(self.labels))
        self.confusions = {name: torch.zeros(shape, dtype=torch.int64) for name in self.extractors}
        scenes = range(len(self.workload.manifest.of(self.split)))
        with self.progress.phase(f"Probe: {self.split} scenes", len(scenes), unit="scenes") as bar:
            for predicted, confusions in self.processes.in_order(self._tested_scenes(scenes)):
                self.encoded.test(*predicted)
                for name, confusion in confusions.items():
                    self.confusions[name] += confusion
                    last = confusion[-1]  # of the probe that knows all labels
                    counts = torch.stack((last.diagonal(), last.sum(dim=1), last.sum(dim=0)))
                    self.counts[name].append(counts.numpy())
                bar.advance()

    def _tested_scenes(self, numbers: range) -> Iterator[tuple[Sampled, dict[str, torch.Tensor]]]:
        """What the regressions predict in this process's part of these scenes, and the confusions of the probes."""
        for scene in self.workload.single_scenes(self.split, self._own(numbers)):
            found = {name: extract(scene) for name, extract in self.extractors.items()}
            predicted = self.encoded.predicted(scene, found)
            yield predicted, self._confusions(_segment(scene, self.ignored), found) if self.labels else {}

    def _confusions(self, segment: np.ndarray, found: Mapping[str, SceneFeatures]) -> dict[str, torch.Tensor]:
        """The confusion matrices `(P, K, K)` of a scene for each kind of features; none without labels."""
        points = torch.from_numpy(np.flatnonzero(segment != IGNORE))
        if not len(points):
            return {}
        truth = self._classes(segment[segment != IGNORE])
        confusions = {name: torch.zeros_like(self.confusions[name]) for name in found}
        for name, parts in found.items():
            for chosen, target in zip(points.split(_CHUNK), truth.split(_CHUNK), strict=True):
                features = parts.of(chosen)
                for place, probe in enumerate(self.probes[name]):
                    confusions[name][place] += confusion_counts(probe.predict(features), target, len(self.labels))
        return confusions

    def report(self) -> dict[str, Any]:
        """The probes on all labeled scenes, and their comparison."""
        return {
            "train_points": self.num_points,
            "test_points": int(next(iter(self.confusions.values()))[-1].sum()),
            "classes": [self.workload.class_name(label) for label in self.labels],
            "features": [
                {"name": name, "dim": self.dims[name], **asdict(segmentation_scores(confusion[-1]))}
                for name, confusion in self.confusions.items()
            ],
            **compare({name: np.stack(counts) for name, counts in self.counts.items()}, self.workload.config.seed),
        }

    def label_efficiency(self) -> dict[str, Any]:
        """The probes on few and on all labeled scenes, and the random forest."""
        forest, missing = forest_confusions(
            self.workload, self.split, self.draws, self.labels, self.limit, self.progress
        )
        curves = [curve(name, self.draws, confusions) for name, confusions in self.confusions.items()]
        if forest is not None:
            curves.append(curve(FOREST, self.draws, forest))
        return {"curves": curves, "forest_missing": missing}

    def _classes(self, segment: np.ndarray) -> torch.Tensor:
        """The place of each label in `labels`."""
        return torch.from_numpy(np.searchsorted(np.asarray(self.labels), segment))


def _segment(scene: PointBatch, ignored: Set[int]) -> np.ndarray:
    segment = without_ignored(scene, ignored).segment
    assert segment is not None
    return segment.numpy()
