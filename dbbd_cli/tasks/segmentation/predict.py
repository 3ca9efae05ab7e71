"""Write the class of each point of scenes, with its probability.

Legend: N points of a scene, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.inputs import Input
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, prepare
from dbbd_cli.data.scenes.manifest import check_parts, required_parts
from dbbd_cli.data.scenes.scene import SEGMENT, Scene
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.palette import class_color, rgb
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.tasks.scene_prediction import ScenePredictionResult, infer_in_tiles, predict_scenes
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

LABEL, CONFIDENCE = "label", "confidence"
"""Names of the properties in a PLY file; see `with_results`."""


def predict_classes(
    workload: SegmentationWorkload, inputs: Iterable[Input], runtime: Runtime, out: OutputFolder, progress: Progress
) -> Iterator[FilePrediction]:
    """Write each scene with the label of the most probable class of each point, its probability, and its color."""
    config = workload.config
    dataset = workload.dataset([], point_samples=None)
    features = config.data.all_features
    required = required_parts("color" in features, "normals" in features)
    labels = np.array(workload.labels, dtype=np.int32)
    colors = np.rint(255 * rgb(map(class_color, range(len(labels))))).astype(np.uint8)

    def predict(scene: Scene, ref: SceneRef) -> ScenePredictionResult:
        check_parts(scene, required, ref)

        def infer(prepared: PreparedScene) -> dict[str, np.ndarray]:
            shares = workload.shares(dataset.batch([prepared]), runtime)
            confidence, best = shares.max(1)
            return {SEGMENT: best.numpy(), CONFIDENCE: confidence.numpy()}

        def advance(done: int, total: int) -> None:
            progress.line(f"{ref.name}: tile {done + 1:,} of {total:,}")

        found = infer_in_tiles(
            scene,
            lambda part: prepare(part, ref, dataset.settings),
            infer,
            max_points=config.predict.max_points,
            margin=config.predict.margin,
            grid_size=config.data.grid_size,
            advance=advance,
        )
        segment, confidence = labels[found[SEGMENT]], found[CONFIDENCE].astype(np.float32)
        return ScenePredictionResult(
            arrays={SEGMENT: segment, CONFIDENCE: confidence},
            columns={LABEL: segment, CONFIDENCE: confidence},
            color=colors[found[SEGMENT]],
        )

    return predict_scenes(
        inputs,
        predict,
        settings=config.predict,
        out=out,
        suffix="-segmented",
        mesh_points=config.data.mesh_points,
        progress=progress,
    )
