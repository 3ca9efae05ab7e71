"""Find the labels of the scenes of a split, and those that are not classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.scene import IGNORE, SEGMENT, stands_apart
from dbbd_cli.tasks.scene_config import SceneDataConfig
from dbbd_cli.tasks.scene_data import prepared_scenes

_CONVENTIONAL = frozenset({254, 255, 65534, 65535, 2**31 - 1})
"""Labels that often mean "ignore": -1 and -2 in unsigned types, and the largest signed 32-bit number."""


@dataclass(frozen=True)
class LabelCensus:
    """The labels of the scenes of a split.

    Attributes:
        points: number of points with each label; `IGNORE` includes negative labels and NaN.
        scenes: the labels of each scene that has any, without `IGNORE`.
        reserved: labels that are the largest value of their unsigned type and stand apart in a scene.
        unusable: "scene: reason" for each scene whose labels cannot be used; they count as missing.
    """

    points: Counter[int]
    scenes: list[frozenset[int]]
    reserved: frozenset[int]
    unusable: list[str]

    @property
    def labels(self) -> frozenset[int]:
        """All labels that occur, without `IGNORE`."""
        return frozenset().union(*self.scenes)

    def num_scenes(self, ignored: Set[int]) -> int:
        """The number of scenes with labels other than the ignored ones."""
        return sum(bool(labels - ignored) for labels in self.scenes)


EMPTY = LabelCensus(Counter(), [], frozenset(), [])


def label_census(config: Any, manifest: Manifest, split: str) -> LabelCensus:
    """Count the labels of a split, whose scenes are prepared."""
    points: Counter[int] = Counter()
    scenes, unusable = [], []
    reserved: set[int] = set()
    for sample, scene in zip(manifest.of(split), prepared_scenes(config, manifest, split), strict=True):
        if SEGMENT in scene.unusable:
            unusable.append(f"{printable(sample.key)}: {printable(scene.unusable[SEGMENT])}")
        if scene.segment is None:
            continue
        labels, counts = np.unique(scene.segment, return_counts=True)
        points.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
        if found := frozenset(labels.tolist()) - {IGNORE}:
            scenes.append(found)
        if scene.reserved_label is not None:
            reserved.add(scene.reserved_label)
    return LabelCensus(points, scenes, frozenset(reserved), unusable)


def ignored_labels(data: SceneDataConfig, *censuses: LabelCensus) -> frozenset[int]:
    """The labels that are not classes: `data.ignore_labels`, or by default those that are reserved in any scene."""
    if data.ignore_labels is not None:
        return frozenset(data.ignore_labels)
    reserved = frozenset().union(*(census.reserved for census in censuses))
    return frozenset(label for label in reserved & _apart(censuses) if label >= len(data.class_names or ()))


def suspected_labels(data: SceneDataConfig, ignored: Set[int], *censuses: LabelCensus) -> list[int]:
    """Labels that count as classes but probably mean "ignore"."""
    if data.ignore_labels == []:  # the user wants none ignored
        return []
    return sorted(label for label in _apart(censuses) - ignored if label >= len(data.class_names or ()))


def _apart(censuses: tuple[LabelCensus, ...]) -> frozenset[int]:
    labels = frozenset().union(*(census.labels for census in censuses))
    return frozenset(label for label in labels & _CONVENTIONAL if stands_apart(label, labels - _CONVENTIONAL))


def report_of_ignored(census: LabelCensus, ignored: Set[int]) -> list[dict[str, Any]]:
    """Rows of `evaluation.json`: each ignored label and its points in the split; null for negative labels and NaN."""
    rows: list[dict[str, Any]] = [
        {"label": label, "points": census.points[label]} for label in sorted(ignored) if census.points[label]
    ]
    unknown = census.points[IGNORE]
    return [*rows, *([{"label": None, "points": unknown}] if unknown else [])]


def label_warnings(suspected: list[int], ignored: Set[int], *censuses: LabelCensus) -> list[str]:
    """Warnings about labels that probably mean "ignore", and about labels that cannot be used."""
    warnings = []
    if suspected:
        shown = " and ".join(map(str, suspected))
        problem = (
            f"label {shown} counts as a class, but looks like 'ignore'. If it is"
            if len(suspected) == 1
            else f"labels {shown} count as classes, but look like 'ignore'. If they are"
        )
        choice = ",".join(map(str, sorted({*ignored, *suspected})))  # without spaces, at which a shell would split
        warnings.append(
            f"{problem}, use --set data.ignore_labels=[{choice}]; if not, "
            + ("name all classes with data.class_names" if ignored else "set it to []")
            + " to hide this warning."
        )
    unusable = [problem for census in censuses for problem in census.unusable]
    if unusable:
        more = f", and {len(unusable) - 1:,} more" if len(unusable) > 1 else ""
        warnings.append(
            f"the labels of {counted(len(unusable), 'scene')} cannot be used and count as missing: {unusable[0]}{more}"
        )
    return warnings
