"""The task as the commands see it. PyTorch is imported only in `build`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.data.splitting import assign_splits
from dbbd_cli.tasks.base import EvaluationOutput, Task
from toy_regression.config import PROGRESS_METRICS, SAMPLE_UNIT, ToyConfig
from toy_regression.table import read_table, synthetic_table

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.evaluation import Evaluation
    from dbbd_cli.report.tables import Section
    from toy_regression.workload import ToyWorkload


class ToyRegression(Task):
    """Predict one column of a table from the others."""

    name = "toy_regression"
    config_class = ToyConfig
    smoke_config = str(Path(__file__).with_name("smoke.yaml"))
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    figure_names = ("predictions",)

    def make_manifest(self, config: ToyConfig, progress: Progress) -> Manifest:
        """List the rows and divide them into splits. Equal rows stay together."""
        digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in table_of(config)]
        keys = [f"row {number}" for number in range(1, len(digests) + 1)]
        split = config.data.split
        shares = (split.train, split.val, split.test)
        splits = assign_splits(keys, [0] * len(keys), digests, ["rows"], shares, config.seed)
        samples = [Sample(key, 0, digest, split) for key, digest, split in zip(keys, digests, splits, strict=True)]
        return Manifest(config.data.source, classes=(), roots=(), samples=tuple(samples))

    def build(
        self,
        config: ToyConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> ToyWorkload:
        """Join the rows and the network."""
        from toy_regression.workload import ToyWorkload

        return ToyWorkload(config, manifest, table_of(config), splits=splits, pin_memory=pin_memory)

    def notes(self, config: ToyConfig, manifest: Manifest) -> Mapping[str, str]:
        """The column to predict."""
        return {"Target": config.data.target}

    def evaluate(self, workload: ToyWorkload, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
        """Measure the errors, and compare them with those of always predicting the mean."""
        from toy_regression.evaluate import evaluate

        return evaluate(workload, split, runtime, progress)

    def evaluation_schema(self) -> type[Evaluation]:
        """The fields of `evaluation.json`, checked before it is drawn."""
        from toy_regression.evaluation import ToyEvaluation

        return ToyEvaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """The errors, next to those of always predicting the mean."""
        from dbbd_cli.report.tables import Values, measured
        from dbbd_cli.report.text import count, number

        rows = [
            ("num_samples", "Rows", count),
            ("r2", "R²", number),
            ("mae", "Mean absolute error", number),
            ("baseline_mae", "… of predicting the mean", number),
        ]
        return [Values("Errors", tuple(measured(evaluation, rows)))]

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """Predictions over targets."""
        content = read("predictions.csv")
        return {} if content is None else {"predictions": lambda: draw_predictions(content.decode())}


def draw_predictions(table: str) -> Figure:
    """A point for each row of `predictions.csv`."""
    from matplotlib.figure import Figure

    rows = [line.split(",") for line in table.splitlines()[1:]]
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.scatter([float(row[1]) for row in rows], [float(row[2]) for row in rows])
    axes.set(xlabel="Target", ylabel="Prediction")
    return figure


def table_of(config: ToyConfig) -> np.ndarray:
    """The rows that the configuration names, `(N, D + 1)`."""
    data = config.data
    return synthetic_table(config.seed) if data.path is None else read_table(Path(data.path), data.target)
