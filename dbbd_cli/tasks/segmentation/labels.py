"""Find the classes of a new run in the labels of its scenes."""

from __future__ import annotations

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.manifest import SPLITS, Manifest
from dbbd_cli.data.scenes.cache import SceneSettings
from dbbd_cli.data.scenes.manifest import prepare_scenes
from dbbd_cli.tasks.scene_data import split_refs
from dbbd_cli.tasks.scene_labels import ignored_labels, label_census, label_warnings, suspected_labels
from dbbd_cli.tasks.segmentation.config import SegmentationConfig

MAX_CLASSES = 200
"""More labels than this are not classes of a segmentation."""


def with_labels(config: SegmentationConfig, manifest: Manifest, progress: Progress) -> SegmentationConfig:
    """The configuration with the labels that are classes; those of the test split count too, as classes to miss.

    Raises:
        DataError: the training or the validation scenes have no labels, or there are too many or too few classes.
    """
    settings, folder = SceneSettings(**config.data.preparation), cache_folder(config.data.cache_dir)
    splits = [split for split in SPLITS if manifest.of(split)]
    for split in splits:
        prepare_scenes(split_refs(config, manifest, split), settings, folder, progress)
    found = {split: label_census(config, manifest, split) for split in splits}
    ignored = ignored_labels(config.data, *found.values())
    labels = config.data.labels
    suspected: list[int] = []
    if labels is None:
        labels = sorted(frozenset().union(*(census.labels for census in found.values())) - ignored)
        suspected = suspected_labels(config.data, ignored, *found.values())
    for warning in label_warnings(suspected, ignored, *found.values()):
        progress.warn(warning)
    for split in ("train", "val"):
        if not found[split].labels & set(labels):
            unusable = found[split].unusable
            raise DataError(
                f"the scenes of the {split} split have no labels that are classes",
                details=unusable[:1],
                hint="segmentation learns from a label for each point: segment, label or classification in the files",
            )
    if len(labels) < 2 or len(labels) > MAX_CLASSES:
        raise DataError(
            f"the scenes have {len(labels):,} different labels that are classes; expected 2 to {MAX_CLASSES}",
            hint="set the classes with data.labels, or those to leave out with data.ignore_labels",
        )
    if missing := sorted(set(labels) - found["train"].labels):
        what = "it" if len(missing) == 1 else "them"
        progress.warn(f"no training scene has label {', '.join(map(str, missing))}: the network cannot learn {what}.")
    return config.model_copy(update={"data": config.data.model_copy(update={"labels": labels})})
