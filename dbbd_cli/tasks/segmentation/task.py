"""The task `segmentation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.base import EvaluationOutput
from dbbd_cli.tasks.scene import SceneTask
from dbbd_cli.tasks.segmentation.config import PROGRESS_METRICS, SegmentationConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.processes import Processes
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.prediction import Calibration, FilePrediction
    from dbbd_cli.report.tables import Section
    from dbbd_cli.runs.output_folder import OutputFolder
    from dbbd_cli.tasks.segmentation.evaluation_schema import SegmentationEvaluation
    from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload


class Segmentation(SceneTask):
    """A class for each point of a scene, learned from labeled scenes."""

    name = "segmentation"
    config_class = SegmentationConfig
    smoke_config = "smoke_segmentation"
    progress_metrics = PROGRESS_METRICS
    predicts_files = True
    scene_figure = "scene_segmentation"
    figure_names = ("class_iou", "confusion_matrix", "scene_segmentation")
    shares_evaluation = True

    def with_weights(self, config: SegmentationConfig) -> SegmentationConfig:
        """The configuration with the encoder of `model.weights`."""
        if config.model.weights == "none":
            return config
        from dbbd_cli.tasks.segmentation.weights import with_encoder_of

        return with_encoder_of(config, Path(config.model.weights))

    def with_samples(self, config: SegmentationConfig, manifest: Manifest, progress: Progress) -> SegmentationConfig:
        """The configuration with the labels that are classes."""
        from dbbd_cli.tasks.segmentation.labels import with_labels

        return with_labels(config, manifest, progress)

    def build(
        self,
        config: SegmentationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> SegmentationWorkload:
        """Build the scenes, the loaders and the network."""
        from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

        return SegmentationWorkload(
            config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
        )

    def evaluate(
        self,
        workload: SegmentationWorkload,
        split: str,
        runtime: Runtime,
        progress: Progress,
        processes: Processes | None = None,
    ) -> EvaluationOutput:
        """Scores with intervals, baselines, and `evaluation_scene.npz` to draw one scene."""
        from dbbd_cli.engine.processes import ALONE
        from dbbd_cli.tasks.segmentation.evaluate import evaluate

        return evaluate(workload, workload, split, runtime, progress, processes or ALONE)

    def predict(
        self,
        workload: SegmentationWorkload,
        inputs: Iterable[Input],
        *,
        runtime: Runtime,
        calibration: Calibration,
        explain: bool,
        out: OutputFolder,
        progress: Progress,
    ) -> Iterator[FilePrediction]:
        """Write the class of each point of scenes, with its probability."""
        if explain:
            raise ConfigError("--explain: classes of points cannot be explained", hint="leave the option out")
        from dbbd_cli.tasks.segmentation.predict import predict_classes

        return predict_classes(workload, inputs, runtime, out, progress)

    def config_for_other_data(self, config: SegmentationConfig, path: Path) -> SegmentationConfig:
        """The configuration for another folder of scenes, with the labels of the run."""
        from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES

        rooms = list(ROOM_CLASSES) if config.is_synthetic else None
        changes = {
            "source": "folder",
            "path": str(path.resolve()),
            "class_names": config.data.class_names or rooms,
            **dict.fromkeys(("max_train_scenes", "max_val_scenes", "max_test_scenes")),
        }
        return config.model_copy(update={"data": config.data.model_copy(update=changes)})

    def evaluate_other(
        self,
        workload: SegmentationWorkload,
        other: SegmentationWorkload,
        runtime: Runtime,
        progress: Progress,
        processes: Processes | None = None,
    ) -> EvaluationOutput:
        """Compute the same on another folder of scenes."""
        from dbbd_cli.engine.processes import ALONE
        from dbbd_cli.tasks.segmentation.evaluate import evaluate

        return evaluate(workload, other, "test", runtime, progress, processes or ALONE)

    def evaluation_schema(self) -> type[SegmentationEvaluation]:
        """Scores of each class, confusion matrix and baselines."""
        from dbbd_cli.tasks.segmentation.evaluation_schema import SegmentationEvaluation

        return SegmentationEvaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """Metrics, baselines, scores of each class, and efficiency."""
        from dbbd_cli.tasks.segmentation.tables import segmentation_tables

        return segmentation_tables(evaluation, self.sample_unit)

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """IoU of each class, confusion matrix, and one scene."""
        from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE, read_evaluation_scene
        from dbbd_cli.tasks.segmentation.figures import segmentation_figures

        content = read(SCENE_FILE)
        scene = None if content is None else read_evaluation_scene(content)
        return segmentation_figures(evaluation, scene)
