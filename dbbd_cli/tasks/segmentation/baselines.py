"""What a segmentation must beat: the most frequent class, and a random forest on features of the points.

Legend: M points, F features, S scenes, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.random_numbers import POINTS, uniform
from dbbd_cli.model.linear_probe import confusion_counts, segmentation_scores
from dbbd_cli.tasks.forest_baseline import NO_FOREST, make_forest
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

_POINTS_PER_SCENE = 3000
_MAX_POINTS = 300_000
"""Points that the forest learns from."""


def baselines(
    workload: SegmentationWorkload,
    tested: SegmentationWorkload,
    split: str,
    confusions: torch.Tensor,
    progress: Progress,
) -> dict[str, Any]:
    """Scores of the baselines on the scenes of a split.

    Args:
        workload: of the run.
        tested: of the scenes to evaluate on.
        split: their split.
        confusions: `(S, K, K)`, of the network.
        progress: shows bars.

    Returns:
        `baselines`, and `baseline_missing`, why there is no random forest; "" if there is one.
    """
    labeled = confusions.sum((0, 2))
    frequent = torch.zeros(len(labeled), len(labeled), dtype=torch.int64)
    frequent[:, int(workload.module.class_counts.argmax())] = labeled
    found = [("most frequent class", frequent)]
    forest, missing = _forest(workload, tested, split, progress)
    if forest is not None:
        found.append(("random forest", forest))
    return {
        "baselines": [
            {
                "name": name,
                "miou": scores.miou,
                "mean_accuracy": scores.mean_accuracy,
                "overall_accuracy": scores.overall_accuracy,
                "per_class_iou": scores.per_class_iou,
            }
            for name, scores in ((name, segmentation_scores(confusion)) for name, confusion in found)
        ],
        "baseline_missing": missing,
    }


def _forest(
    workload: SegmentationWorkload, tested: SegmentationWorkload, split: str, progress: Progress
) -> tuple[torch.Tensor | None, str]:
    """The confusion matrix `(K, K)` of a random forest on the features that the head sees, or None and the reason."""
    if split == "train" and tested is workload:
        return None, "it is trained on the training split; evaluate another one"
    forest = make_forest(workload.config.seed)
    if forest is None:
        return None, NO_FOREST
    try:
        workload.prepare("train", progress)
    except DataError as error:
        return None, f"the training scenes cannot be used: {error.message}"
    num_scenes = len(workload.manifest.of("train"))
    limit = max(1, min(_POINTS_PER_SCENE, _MAX_POINTS // num_scenes))
    features, classes = [], []
    with progress.phase("Random forest: training scenes", num_scenes, unit="scenes") as bar:
        for number, (values, target) in enumerate(workload.labeled_points("train")):
            rank = uniform(workload.config.seed, 0, np.array([number]), len(values), purpose=POINTS)[0]
            chosen = np.sort(np.argsort(rank)[:limit])
            features.append(values[chosen].numpy())
            classes.append(target[chosen].numpy())
            bar.advance()
    forest.fit(np.concatenate(features), np.concatenate(classes))
    confusion = torch.zeros(len(tested.labels), len(tested.labels), dtype=torch.int64)
    with progress.phase(f"Random forest: {split} scenes", len(tested.manifest.of(split)), unit="scenes") as bar:
        for values, target in tested.labeled_points(split):
            if len(values):
                predicted = torch.from_numpy(forest.predict(values.numpy()))
                confusion += confusion_counts(predicted, target, len(confusion))
            bar.advance()
    return confusion, ""
