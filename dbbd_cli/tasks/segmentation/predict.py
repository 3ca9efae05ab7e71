"""Write the class of each point of scenes, with its probability.

Legend: N points of a scene, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.inputs import Input
from dbbd_cli.data.scenes.cache import SceneRef
from dbbd_cli.data.scenes.scene import SEGMENT, Scene
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.palette import class_color, rgb
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_prediction import Arrays, ScenePredictionResult, infer_scene, predict_scenes
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

LABEL, CONFIDENCE = "label", "confidence"
"""Names of the properties in a PLY file; see `with_results`."""
_CLASS = "class"
"""The index of a label."""


def predict_classes(
    workload: SegmentationWorkload, inputs: Iterable[Input], runtime: Runtime, out: OutputFolder, progress: Progress
) -> Iterator[FilePrediction]:
    """Write each scene with the label of the most probable class of each point, its probability, and its color."""
    labels = np.array(workload.labels, dtype=np.int32)
    colors = np.rint(255 * rgb(map(class_color, range(len(labels))))).astype(np.uint8)

    def infer(batch: PointBatch) -> Arrays:
        confidence, best = workload.shares(batch, runtime).max(1)
        return {_CLASS: best.numpy(), CONFIDENCE: confidence.numpy()}

    def predict(scene: Scene, ref: SceneRef) -> ScenePredictionResult:
        values = infer_scene(workload, scene, ref, infer, progress)
        segment, confidence = labels[values[_CLASS]], values[CONFIDENCE].astype(np.float32)
        return ScenePredictionResult(
            arrays={SEGMENT: segment, CONFIDENCE: confidence},
            columns={LABEL: segment, CONFIDENCE: confidence},
            color=colors[values[_CLASS]],
        )

    return predict_scenes(
        inputs,
        predict,
        settings=workload.config.predict,
        out=out,
        suffix="-segmented",
        mesh_points=workload.data.mesh_points,
        progress=progress,
    )
