"""What the tasks that train classifiers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.base import EvaluationOutput, Task
from dbbd_cli.tasks.classifier_config import PROGRESS_METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.sections import TaskConfig
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.engine.processes import Processes
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.classification.evaluation_schema import ClassificationEvaluation
    from dbbd_cli.report.tables import Section


class ClassifierTask(Task):
    """A task that trains a classifier: how it is evaluated, drawn and tabulated."""

    progress_metrics = PROGRESS_METRICS
    figure_names = ("confusion_matrix", "roc", "precision_recall", "reliability", "baselines", "errors", "corruptions")
    evaluation_splits = ("val",)
    can_corrupt = True
    shares_evaluation = True

    def evaluate(
        self, workload: Any, split: str, runtime: Runtime, progress: Progress, processes: Processes | None = None
    ) -> EvaluationOutput:
        """Compute all metrics, speed and size; `predictions.csv` gets the probabilities of each sample."""
        from dbbd_cli.engine.processes import ALONE
        from dbbd_cli.tasks.classifier_evaluation import evaluate_classifier

        return evaluate_classifier(workload, split, runtime, progress, processes or ALONE)

    def config_for_other_data(self, config: TaskConfig, path: Path) -> TaskConfig:
        """Return the configuration with another source: a table of URLs or images, or a folder with one per class.

        Raises:
            ConfigError: the task has no such source.
        """
        from dbbd_cli.config.load import Override
        from dbbd_cli.config.sections import to_plain
        from dbbd_cli.tasks.configs import config_from_mapping

        values = to_plain(config)
        changes = {
            "source": _source_of(path, values["data"]),
            "path": str(path.resolve()),
            "classes": None,
            "sample_per_class": None,
            "split_column": None,  # all samples count
        }
        known = {key: value for key, value in changes.items() if key in values["data"]}
        overrides = [Override(f"data.{key}", value, "--data") for key, value in known.items()]
        overrides.append(Override("data.split.group", "none", "--data"))
        return config_from_mapping(values, overrides, origin="--data")

    def evaluate_other(
        self, workload: Any, other: Any, runtime: Runtime, progress: Progress, processes: Processes | None = None
    ) -> EvaluationOutput:
        """Compute the same on another data set."""
        from dbbd_cli.engine.processes import ALONE
        from dbbd_cli.tasks.classifier_evaluation import evaluate_classifier

        return evaluate_classifier(workload, "test", runtime, progress, processes or ALONE, other)

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
        """Confusion matrix, curves, reliability, baselines, and the pictures of the most confident errors if any."""
        from dbbd_cli.report.classification.figures import classification_figures
        from dbbd_cli.report.classification.gallery import PICTURES_FILE, read_pictures

        content = read(PICTURES_FILE) if evaluation.get("errors") else None
        return classification_figures(evaluation, None if content is None else read_pictures(content))


def _source_of(path: Path, data: Mapping[str, Any]) -> str:
    """The kind of another data set."""
    from dbbd_cli.data.images.shard_paths import contains_shards, looks_like_shards

    if looks_like_shards(str(path)) or contains_shards(path):
        return "shards"
    if not path.is_file():
        return "folder"
    from dbbd_cli.data.table import column_names

    names = column_names(path)
    return "table" if data["path_column"] in names and data["url_column"] not in names else "urls"
