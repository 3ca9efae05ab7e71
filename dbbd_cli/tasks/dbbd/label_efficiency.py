"""How many labeled scenes do features need? Linear probes on few and on all of them, and their scores.

Legend: M labeled points, D channels of features, K classes, P probes of a kind of features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dbbd_cli.data.random_numbers import LABELED_SCENES, PROBE, uniform
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.model.linear_probe import LinearProbe, fit_probe, segmentation_scores

WEIGHT_DECAY = 0.01
"""Strong, because the labels come from few scenes with similar points."""

FEW_ITERATIONS = 40
"""Steps to fit a probe to few scenes: with 5 real scans, the mIoU is within 0.1 percentage points of that after 300,
which take three times as long."""


@dataclass(frozen=True)
class Draw:
    """Training scenes whose labels a probe may see.

    Attributes:
        size: how many scenes.
        scenes: their numbers in the training split.
    """

    size: int
    scenes: np.ndarray


@dataclass(frozen=True)
class LabeledPoints:
    """Chosen points of the training scenes.

    Attributes:
        features: `(M, D)` float32 of each kind.
        classes: `(M,)` int64.
        scene: the number of the scene of each, `(M,)`.
    """

    features: Mapping[str, torch.Tensor]
    classes: torch.Tensor
    scene: torch.Tensor


def draw_scenes(labeled: Sequence[int], num_scenes: int, sizes: Sequence[int], count: int, seed: int) -> list[Draw]:
    """Draw labeled scenes: for each size, `count` times; and all of them, last.

    The scenes of a smaller number are among those of a larger one of the same draw, so that a curve shows what further
    scenes add.

    Args:
        labeled: numbers of the training scenes with labels, ascending.
        num_scenes: number of training scenes.
        sizes: numbers of scenes; those not smaller than the number of labeled ones are left out.
        count: draws of each size.
        seed: seed of the run.
    """
    everything = np.asarray(labeled)
    orders = [
        everything[np.argsort(uniform(seed, draw, np.arange(num_scenes), 1, purpose=LABELED_SCENES)[everything, 0])]
        for draw in range(count)
    ]
    sizes = sorted({size for size in sizes if size < len(everything)})
    return [*(Draw(size, order[:size]) for size in sizes for order in orders), Draw(len(everything), everything)]


def choose_points(segment: np.ndarray, limit: int, number: int, seed: int) -> np.ndarray:
    """At most `limit` labeled points of a training scene, at random, ascending.

    Args:
        segment: the labels of its points; `IGNORE` for none.
        limit: see above.
        number: the scene in the training split.
        seed: seed of the run.
    """
    labeled = np.flatnonzero(segment != IGNORE)
    return labeled[random_rows(len(labeled), limit, number, seed)]


def random_rows(count: int, limit: int, number: int, seed: int) -> np.ndarray:
    """At most `limit` of `count` rows of a scene, at random, ascending; `number` and `seed` as in `choose_points`."""
    if count <= limit:
        return np.arange(count)
    rank = uniform(seed, 0, np.array([number]), count, purpose=PROBE)[0]
    found: np.ndarray = np.sort(np.argpartition(rank, limit)[:limit])
    return found


def fit_draws(
    features: torch.Tensor,
    points: LabeledPoints,
    draws: Sequence[Draw],
    num_classes: int,
    advance: Callable[[], None],
    processes: Processes = ALONE,
) -> list[LinearProbe]:
    """The probes on features `(M, D)` of the points, one for each draw; the last, of all scenes, takes more steps.

    The processes fit a part of them each.
    """

    def fitted(draw: Draw) -> tuple[torch.Tensor, ...]:
        rows = torch.isin(points.scene, torch.from_numpy(draw.scenes))
        most = {} if draw is draws[-1] else {"max_iterations": FEW_ITERATIONS}
        probe = fit_probe(features[rows], points.classes[rows], num_classes, weight_decay=WEIGHT_DECAY, **most)
        return probe.mean, probe.scale, probe.weight, probe.bias

    probes = []
    for parts in processes.in_order(map(fitted, draws[processes.rank :: processes.size])):
        probes.append(LinearProbe(*parts))
        advance()
    return probes


def curve(name: str, draws: Sequence[Draw], confusions: torch.Tensor) -> dict[str, Any]:
    """A kind of features in `label_efficiency` of the report.

    Args:
        name: of the features.
        draws: the draws.
        confusions: their confusion matrices `(P, K, K)` on the evaluated scenes.
    """
    scores: dict[int, list[float]] = {}
    for draw, confusion in zip(draws, confusions, strict=True):
        scores.setdefault(draw.size, []).append(segmentation_scores(confusion).miou)
    return {
        "name": name,
        "points": [
            {
                "scenes": size,
                "draws": len(found),
                "miou": float(np.mean(found)),
                "std": float(np.std(found, ddof=1)) if len(found) > 1 else None,
                "low": min(found),
                "high": max(found),
            }
            for size, found in scores.items()
        ],
    }
