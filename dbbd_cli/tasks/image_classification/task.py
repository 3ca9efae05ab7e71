"""The task `image_classification`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.base import EvaluationOutput, Task
from dbbd_cli.tasks.image_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, ImageClassificationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.candidates import Source
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
    from dbbd_cli.report.tables import Section
    from dbbd_cli.tasks.image_classification.workload import ImageWorkload


class ImageClassification(Task):
    """Classification of images, or of URLs rendered as QR codes."""

    name = "image_classification"
    config_class = ImageClassificationConfig
    smoke_config = "smoke_qr"
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    figure_names = ("confusion_matrix", "roc", "precision_recall", "reliability", "corruptions")
    can_corrupt = True

    def make_manifest(self, config: ImageClassificationConfig, progress: Progress) -> Manifest:
        """List the images, check them, and divide each class into splits."""
        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.images.manifest import make_manifest

        data = config.data
        return make_manifest(
            _list_images(config),
            sample_per_class=data.sample_per_class,
            report_limit="sample_per_class" in data.model_fields_set,
            shares=(data.split.train, data.split.val, data.split.test),
            group_by_host=data.split.group == "host",
            on_error=data.on_error,
            image_size=config.image_size,
            cache_dir=cache_folder(data.cache_dir),
            seed=config.seed,
            progress=progress,
        )

    def build(
        self,
        config: ImageClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> ImageWorkload:
        """Prepare the images and build the classifier."""
        from dbbd_cli.tasks.image_classification.workload import ImageWorkload

        return ImageWorkload(
            config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
        )

    def notes(self, config: ImageClassificationConfig, manifest: Manifest) -> Mapping[str, str]:
        """Return no further rows."""
        return {}

    def config_for_weights(
        self, content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
    ) -> None:
        """Return None: the weights of a classifier do not tell its classes."""

    def evaluate(self, workload: ImageWorkload, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
        """Compute all metrics, speed and size; `predictions.csv` gets the probabilities of each image."""
        from dbbd_cli.tasks.classifier_evaluation import evaluate_classifier

        return evaluate_classifier(workload, split, runtime, progress)

    def evaluate_corrupted(
        self, workload: ImageWorkload, split: str, runtime: Runtime, num_samples: int, progress: Progress
    ) -> dict[str, Any]:
        """Classify images whose pixels were corrupted."""
        from dbbd_cli.tasks.image_classification.corruptions import measure_corruptions

        return measure_corruptions(workload, split, runtime, num_samples, progress)

    def evaluation_schema(self) -> type[ClassificationEvaluation]:
        """The report of a classifier."""
        from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation

        return ClassificationEvaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """Metrics, scores of each class, confusion matrix, and efficiency."""
        from dbbd_cli.report.classification.tables import classification_tables

        return classification_tables(evaluation, self.sample_unit)

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """Confusion matrix, ROC, precision and recall, and reliability."""
        from dbbd_cli.report.classification.figures import classification_figures

        return classification_figures(evaluation)


def _list_images(config: ImageClassificationConfig) -> Source:
    from dbbd_cli.data.images.sources import list_classes, list_folder
    from dbbd_cli.data.urls.sources import list_synthetic, list_urls

    data = config.data
    if data.source == "folder":
        assert data.path is not None
        return list_folder(Path(data.path))
    if data.source == "classes":
        assert data.classes is not None
        return list_classes({name: Path(folder) for name, folder in data.classes.items()})
    if data.source == "urls":
        assert data.path is not None
        return list_urls(Path(data.path), data.url_column, data.label_column)
    return list_synthetic(data.sample_per_class or 5000, config.seed)
