"""The task `url_classification`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.base import EvaluationOutput, Task
from dbbd_cli.tasks.classifier_data import FIGURE_NAMES
from dbbd_cli.tasks.url_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, UrlClassificationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.sections import TaskConfig
    from dbbd_cli.core.progress import Progress
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
    figure_names = FIGURE_NAMES
    evaluation_splits = ("val",)

    def make_manifest(self, config: UrlClassificationConfig, progress: Progress) -> Manifest:
        """List the URLs and divide each class into splits."""
        from dbbd_cli.data.urls.manifest import make_manifest
        from dbbd_cli.data.urls.sources import list_synthetic, list_urls

        data = config.data
        if data.source == "urls":
            assert data.path is not None
            source = list_urls(Path(data.path), data.url_column, data.label_column)
        else:
            source = list_synthetic(data.sample_per_class or 5000, config.seed)
        return make_manifest(
            source,
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

    def config_for_other_data(self, config: UrlClassificationConfig, path: Path) -> TaskConfig:
        """Return the configuration with another source."""
        from dbbd_cli.tasks.classifier_data import config_for_other_data

        return config_for_other_data(config, path)

    def evaluate_other(
        self, workload: UrlWorkload, other: UrlWorkload, runtime: Runtime, progress: Progress
    ) -> EvaluationOutput:
        """Compute the same on another data set."""
        from dbbd_cli.tasks.classifier_evaluation import evaluate_classifier

        return evaluate_classifier(workload, "test", runtime, progress, other=other)

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
        """Confusion matrix, curves, reliability and baselines."""
        from dbbd_cli.report.classification.figures import classification_figures

        return classification_figures(evaluation)
