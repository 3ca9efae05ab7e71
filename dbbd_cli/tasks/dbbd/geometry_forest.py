"""A random forest on hand-made geometry features, with as many labeled scenes as the probes have.

Legend: N points of a scene, K classes, P forests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.scenes.cache import SceneSettings, prepared_scene, scene_geometry
from dbbd_cli.data.scenes.scene import IGNORE
from dbbd_cli.model.linear_probe import confusion_counts
from dbbd_cli.tasks.dbbd.label_efficiency import Draw, choose_points
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from dbbd_cli.tasks.forest_baseline import NO_FOREST, make_forest

FOREST = "random forest"


def forest_confusions(
    workload: DbbdWorkload, split: str, draws: Sequence[Draw], labels: Sequence[int], limit: int, progress: Progress
) -> tuple[torch.Tensor | None, str]:
    """The confusion matrices `(P, K, K)` of a forest for each draw.

    Args:
        workload: the scenes, which are prepared.
        split: the split to score them on.
        draws: the labeled scenes that they learn from.
        labels: the labels that are classes, ascending.
        limit: points of a training scene.
        progress: shows bars.

    Returns:
        The matrices, or None and the reason.
    """
    seed = workload.config.seed
    if make_forest(seed) is None:
        return None, NO_FOREST
    features, classes = [], []
    wanted = draws[-1].scenes
    with progress.phase("Random forest: training scenes", len(wanted), unit="scenes") as bar:
        for number, (geometry, target) in zip(wanted, _scenes(workload, "train", labels, wanted), strict=True):
            chosen = choose_points(target, limit, int(number), seed)
            features.append(geometry[chosen].astype(np.float32))
            classes.append(target[chosen])
            bar.advance()
    place_of = {number: place for place, number in enumerate(wanted.tolist())}
    confusions = torch.zeros(len(draws), len(labels), len(labels), dtype=torch.int64)
    tested = np.arange(len(workload.manifest.of(split)))
    with progress.phase(f"Random forest: {split} scenes", len(draws) * len(tested), unit="scenes") as bar:
        # One forest at a time: each may need hundreds of megabytes.
        for confusion, draw in zip(confusions, draws, strict=True):
            places = sorted(place_of[number] for number in draw.scenes.tolist())
            forest = make_forest(seed)
            assert forest is not None
            forest.fit(np.concatenate([features[p] for p in places]), np.concatenate([classes[p] for p in places]))
            for geometry, target in _scenes(workload, split, labels, tested):
                known = target != IGNORE
                if known.any():
                    predicted = torch.from_numpy(forest.predict(geometry[known].astype(np.float32)))
                    confusion += confusion_counts(predicted, torch.from_numpy(target[known]), len(labels))
                bar.advance()
    return confusions, ""


def _scenes(
    workload: DbbdWorkload, split: str, labels: Sequence[int], numbers: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Geometry features `(N, 29)` float16 and classes `(N,)` of these scenes; `IGNORE` where no class is known."""
    settings, folder = SceneSettings(**workload.data.preparation), cache_folder(workload.data.cache_dir)
    refs = workload.refs(split)
    known = np.asarray(labels)
    for number in numbers:
        segment = prepared_scene(refs[number], settings, folder).segment
        geometry = scene_geometry(refs[number], settings, folder)
        if segment is None:
            yield geometry, np.full(len(geometry), IGNORE)
            continue
        place = np.searchsorted(known, segment).clip(max=len(known) - 1)
        yield geometry, np.where(known[place] == segment, place, IGNORE)
