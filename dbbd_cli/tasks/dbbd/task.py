"""The task `dbbd`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.dbbd.config import PROGRESS_METRICS, DbbdConfig
from dbbd_cli.tasks.scene import SceneTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.processes import Processes
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.history_panels import Panel
    from dbbd_cli.report.prediction import Calibration, FilePrediction
    from dbbd_cli.report.tables import Section
    from dbbd_cli.runs.output_folder import OutputFolder
    from dbbd_cli.tasks.dbbd.evaluation_schema import DbbdEvaluation
    from dbbd_cli.tasks.dbbd.workload import DbbdWorkload


class Dbbd(SceneTask):
    """Dual Branch Bi-Directional self-supervised pretraining of point clouds."""

    name = "dbbd"
    config_class = DbbdConfig
    smoke_config = "smoke_dbbd"
    progress_metrics = PROGRESS_METRICS
    predicts_files = True
    scene_figure = "scene_features"
    shares_evaluation = True
    figure_names = ("level_losses", "probe", "label_efficiency", "scene_features", "region_tree")

    def build(
        self,
        config: DbbdConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> DbbdWorkload:
        """Build the scenes, the loaders and the network."""
        from dbbd_cli.tasks.dbbd.workload import DbbdWorkload

        return DbbdWorkload(
            config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
        )

    def notes(self, config: DbbdConfig, manifest: Manifest) -> Mapping[str, str]:
        """The effects of `small_mode`, in words."""
        keys = config.set_by_small_mode
        parts = {
            "fewer scenes": any(f"data.max_{split}_scenes" in keys for split in manifest.limited_from),
            f"batches of {config.training.batch_size}": "training.batch_size" in keys,
            f"a network of {config.model.hidden_dim} channels": any(key.startswith("model.") for key in keys),
            f"{config.loss.point_samples:,} points compared per batch": "loss.point_samples" in keys,
            "no worker processes": "data.num_workers" in keys,
        }
        words = ", ".join(words for words, holds in parts.items() if holds)
        return {"Small mode": words} if words else {}

    def config_for_weights(
        self, content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
    ) -> DbbdConfig | None:
        """The configuration for weights of DBBD, such as a checkpoint of the first implementation."""
        from dbbd_cli.tasks.dbbd.bare_weights import config_for_weights

        return config_for_weights(content, path, settings, overrides)

    def history_panels(self, metrics: Collection[str], num_runs: int) -> list[Panel]:
        """Parts of the loss, top-1 accuracy by level, and signs of collapse."""
        from dbbd_cli.tasks.dbbd.history_panels import history_panels

        return history_panels(metrics, num_runs)

    def evaluate(
        self,
        workload: DbbdWorkload,
        split: str,
        runtime: Runtime,
        progress: Progress,
        processes: Processes | None = None,
    ) -> EvaluationOutput:
        """Losses with chance levels, retrieval, probes of the features, and the data to draw one scene."""
        from dbbd_cli.engine.processes import ALONE
        from dbbd_cli.tasks.dbbd.evaluate import evaluate

        return evaluate(workload, split, runtime, progress, processes or ALONE)

    def predict(
        self,
        workload: DbbdWorkload,
        inputs: Iterable[Input],
        *,
        runtime: Runtime,
        calibration: Calibration,
        explain: bool,
        out: OutputFolder,
        progress: Progress,
    ) -> Iterator[FilePrediction]:
        """Write the features of the points of scenes, and the scenes colored by them."""
        if explain:
            raise ConfigError("--explain: features cannot be explained", hint="leave the option out for this run")
        from dbbd_cli.tasks.dbbd.predict import predict_features

        return predict_features(workload, inputs, runtime, out, progress)

    def evaluation_schema(self) -> type[DbbdEvaluation]:
        """Losses compared with chance, and probes of the features."""
        from dbbd_cli.tasks.dbbd.evaluation_schema import DbbdEvaluation

        return DbbdEvaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """Metrics, losses compared with chance, probes of the features, and efficiency."""
        from dbbd_cli.tasks.dbbd.tables import dbbd_tables

        return dbbd_tables(evaluation, self.sample_unit)

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """Losses compared with chance, probes of the features, and one scene."""
        from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE, read_evaluation_scene
        from dbbd_cli.tasks.dbbd.figures import dbbd_figures

        content = read(SCENE_FILE)
        scene = None if content is None else read_evaluation_scene(content)
        return dbbd_figures(evaluation, scene)
