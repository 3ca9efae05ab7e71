"""Write the features of the points of scenes.

Legend: N points of a scene, D channels of features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.inputs import Input
from dbbd_cli.data.scenes.cache import SceneRef
from dbbd_cli.data.scenes.scene import Scene
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_features import principal_axes, principal_colors, project
from dbbd_cli.tasks.scene_prediction import ScenePredictionResult, infer_scene, predict_scenes

_FEATURE = "feature"
"""The name of the array."""
_AXES_SCENES, _AXES_POINTS = 32, 2048
"""Training scenes, and points of each, that the axes of smaller features are fitted to."""


def predict_features(
    workload: DbbdWorkload, inputs: Iterable[Input], runtime: Runtime, out: OutputFolder, progress: Progress
) -> Iterator[FilePrediction]:
    """Write the features of each scene, and the scene colored by them."""
    features = _Features(workload, runtime, progress)
    return predict_scenes(
        inputs,
        features.of,
        settings=workload.config.predict,
        out=out,
        suffix="-features",
        mesh_points=workload.data.mesh_points,
        progress=progress,
    )


class _Features:
    """Computes features as `predict` of the configuration says."""

    def __init__(self, workload: DbbdWorkload, runtime: Runtime, progress: Progress) -> None:
        self.workload = workload
        self.runtime = runtime
        self.progress = progress
        self.settings = workload.config.predict
        self._axes: tuple[np.ndarray, np.ndarray] | None = None

    def of(self, scene: Scene, ref: SceneRef) -> ScenePredictionResult:
        """The features of a scene."""

        def infer(batch: PointBatch) -> dict[str, np.ndarray]:
            return {_FEATURE: self._computed(batch)}

        feature = infer_scene(self.workload, scene, ref, infer, self.progress)[_FEATURE]
        color = principal_colors(feature) if "ply" in self.settings.formats else None
        if self.settings.dim is not None:
            if self._axes is None:
                self._axes = self._fitted_axes(self.settings.dim)
            feature = project(feature, *self._axes).astype(np.float32)
        if self.settings.normalization == "l2":
            feature /= np.maximum(np.linalg.norm(feature, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return ScenePredictionResult({_FEATURE: feature}, color=color)

    def _computed(self, batch: PointBatch) -> np.ndarray:
        """The features `(N, D)` of a batch, float32."""
        encoder, branch = self.workload.module.encoder, self.settings.branch
        with torch.inference_mode(), self.runtime.autocast():
            arguments = self.workload.without_views(batch, self.runtime.device)
            parts = [
                compute(*arguments).points.float()
                for name, compute in (("g2l", encoder.global_to_local), ("l2g", encoder.local_to_global))
                if branch in (name, "both")
            ]
            return torch.cat(parts, dim=1).cpu().numpy()

    def _fitted_axes(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Principal axes of the training scenes, so that the features of all scenes have the same meaning.

        Raises:
            ConfigError: the training scenes are not there any more.
        """
        self.progress.line(f"Fitting {dim} principal axes to features of the training scenes…")
        sample = []
        try:
            for batch in islice(self.workload.single_scenes("train"), _AXES_SCENES):
                feature = self._computed(batch)
                sample.append(feature[np.random.default_rng(0).permutation(len(feature))[:_AXES_POINTS]])
        except DataError as error:
            raise ConfigError(
                f"predict.dim needs the training scenes: {error.message}",
                hint="set the path of their folder with --set data.path=DIR, or leave predict.dim out",
            ) from error
        return principal_axes(np.concatenate(sample), dim)
