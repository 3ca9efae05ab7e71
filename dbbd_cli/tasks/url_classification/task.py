"""The task `url_classification`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.base import EvaluationOutput, Task
from dbbd_cli.tasks.url_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, UrlClassificationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.candidates import Source
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
    from dbbd_cli.report.tables import Section
    from dbbd_cli.tasks.url_classification.workload import UrlWorkload


class UrlClassification(Task):
    """Classification of URLs by their text."""

    name = "url_classification"
    config_class = UrlClassificationConfig
    smoke_config = "smoke_url"
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    figure_names = ("confusion_matrix", "roc", "precision_recall", "reliability", "corruptions")
    can_corrupt = True

    def make_manifest(self, config: UrlClassificationConfig, progress: Progress) -> Manifest:
        """List the URLs or pictures of their codes, which are read, and divide each class into splits."""
        from dbbd_cli.data.urls.manifest import make_manifest

        data = config.data
        return make_manifest(
            _list_urls(config),
            cleaning=data.urls,
            sample_per_class=data.sample_per_class,
            report_limit="sample_per_class" in data.model_fields_set,
            shares=(data.split.train, data.split.val, data.split.test),
            group_by_host=data.split.group == "host",
            on_error=data.on_error,
            seed=config.seed,
            progress=progress,
        )

    def build(
        self,
        config: UrlClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> UrlWorkload:
        """Encode the URLs and build the classifier."""
        from dbbd_cli.tasks.url_classification.workload import UrlWorkload

        return UrlWorkload(config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory)

    def evaluate(self, workload: UrlWorkload, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
        """Compute all metrics, speed and size; `predictions.csv` gets the probabilities of each URL."""
        from dbbd_cli.tasks.classifier_evaluation import evaluate_classifier

        return evaluate_classifier(workload, split, runtime, progress)

    def evaluate_corrupted(
        self, workload: UrlWorkload, split: str, runtime: Runtime, num_samples: int, progress: Progress
    ) -> dict[str, Any]:
        """Read corrupted codes and classify what was read; URLs that were not pictures are rendered first."""
        from dbbd_cli.tasks.url_classification.corruptions import measure_corruptions

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


def _list_urls(config: UrlClassificationConfig) -> Source:
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
