"""What features encode of the place of a point: linear regressions, which need no labels.

Features that follow a geometric shortcut tell where a point is, not what it is (Wu et al., "Sonata", 2025). They are
compared with those of a random encoder, which passes on some of its input anyway.

Legend: N points of a scene, n chosen points, T target values of a point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dbbd_cli.model.ridge import Determination, LinearRegression, RidgeSums
from dbbd_cli.tasks.dbbd.label_efficiency import WEIGHT_DECAY, random_rows
from dbbd_cli.tasks.dbbd.probe_features import PRETRAINED, RANDOM, SceneFeatures
from dbbd_cli.tasks.scene_batches import PointBatch

MAX_TRAINING_SCENES = 64
"""Training scenes that the regressions are fitted on, evenly spaced."""
_TRAINING_POINTS, _TEST_POINTS = 512, 2048
"""Points of a scene."""
TARGETS = {"height": (0, 1), "normal": (1, 2), "position": (2, 4)}
"""Height above the lowest point of the scene; |z| of the normal; x and y relative to the center of the scene. And the
columns of each among the target values."""
_SHORTCUT = 0.05
"""Position counts as learned if R² exceeds that of a random encoder by more than this."""


Sampled = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Values of some points of a scene by kind of features, `(n, …)` each, and their target values `(n, T)`."""


class Encoded:
    """Fits the regressions on training scenes and scores them on others."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.num_scenes = {"train": 0, "test": 0}
        self._sums: dict[str, RidgeSums] = {}
        self._fitted: dict[str, LinearRegression] = {}
        self._scores: dict[str, Determination] = {}

    def training_rows(self, scene: PointBatch, features: Mapping[str, SceneFeatures]) -> Sampled:
        """What the regressions learn from a training scene: some of its features."""
        chosen, targets = self._sample(scene, _TRAINING_POINTS)
        return {name: parts.of(chosen) for name, parts in features.items()}, targets

    def add(self, features: Mapping[str, torch.Tensor], targets: torch.Tensor) -> None:
        """Add the rows of a training scene."""
        self.num_scenes["train"] += 1
        for name, values in features.items():
            if name not in self._sums:
                self._sums[name] = RidgeSums(values.shape[1], targets.shape[1])
            self._sums[name].add(values, targets)

    def predicted(self, scene: PointBatch, features: Mapping[str, SceneFeatures]) -> Sampled:
        """What the regressions, fitted to all rows that were added, predict in another scene."""
        if not self._fitted:
            self._fitted = {name: sums.solve(WEIGHT_DECAY) for name, sums in self._sums.items()}
        chosen, targets = self._sample(scene, _TEST_POINTS)
        return {name: self._fitted[name].predict(parts.of(chosen)) for name, parts in features.items()}, targets

    def test(self, predicted: Mapping[str, torch.Tensor], targets: torch.Tensor) -> None:
        """Score what was predicted in a scene."""
        self.num_scenes["test"] += 1
        for name, values in predicted.items():
            if name not in self._scores:
                self._scores[name] = Determination(targets.shape[1])
            self._scores[name].add(values, targets)

    def report(self) -> dict[str, Any]:
        """`encoded` of the report."""
        scores = {name: [score.of(*columns) for columns in TARGETS.values()] for name, score in self._scores.items()}
        position = list(TARGETS).index("position")
        return {
            "train_scenes": self.num_scenes["train"],
            "test_scenes": self.num_scenes["test"],
            "targets": list(TARGETS),
            "features": [{"name": name, "r2": values} for name, values in scores.items()],
            **_verdict(scores[PRETRAINED][position], scores[RANDOM][position]),
        }

    def _sample(self, scene: PointBatch, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers `(n,)` of at most `limit` points, at random, and their target values `(n, T)`."""
        chosen = torch.from_numpy(random_rows(len(scene.coord), limit, int(scene.samples), self.seed))
        coord, normal = scene.coord[chosen], scene.normal[chosen]
        return chosen, torch.cat([coord[:, 2:], normal[:, 2:].abs(), coord[:, :2]], dim=1)


def _verdict(pretrained: float, random: float) -> dict[str, Any]:
    """`shortcut` and `conclusion` of the report, from the R² of the position."""
    if not math.isfinite(pretrained) or not math.isfinite(random):
        return {"shortcut": None, "conclusion": ""}
    values = f"(R² {pretrained:.2f}, compared with {random:.2f})"
    is_shortcut = pretrained > random + _SHORTCUT
    text = f"pretrained features than from a random encoder's {values}"
    if is_shortcut:
        text = f"easier to read from the {text}: they partly encode where a point is instead of what it is."
    else:
        text = f"no easier to read from the {text}."
    return {"shortcut": is_shortcut, "conclusion": f"The position of a point is {text}"}
