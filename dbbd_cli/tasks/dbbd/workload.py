"""What the engine trains for DBBD: batches of scenes, their views and features, and the network with its losses.

Legend: N points of a batch, C feature channels of a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.views import make_views
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.model.dbbd.weights import load_weights
from dbbd_cli.tasks.dbbd.config import PROGRESS_METRICS, DbbdConfig
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_workload import SceneWorkload, on_device

MIN_FEATURE_STD = 0.1
MIN_EFFECTIVE_RANK = 2.0
"""Below these, the features of all points are nearly equal, or lie on a line."""


class DbbdWorkload(SceneWorkload):
    """The `Workload` of DBBD.

    Args:
        config: the resolved configuration.
        manifest: the scenes and their splits.
        splits: splits that need loaders.
        pretrained: whether to load `model.weights`; a checkpoint replaces them anyway.
        pin_memory: whether to put batches into page-locked memory.
        progress: shows scenes that are being prepared.

    Raises:
        DataError: a scene is missing or has changed since the manifest was made, and is not in the cache.
        CheckpointError: `model.weights` does not match the network.
    """

    config: DbbdConfig
    module: DbbdPretraining
    progress_metrics = PROGRESS_METRICS

    def __init__(
        self,
        config: DbbdConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> None:
        super().__init__(config, manifest)
        self.module = make_network(config)
        if pretrained and config.model.weights != "none":
            load_weights(self.module, Path(config.model.weights))
        for split in splits:
            self.prepare(split, progress)
            dataset = self.dataset(self.refs(split), point_samples=config.loss.point_samples)
            self.add_loader(split, dataset, batch_size=config.training.batch_size, pin_memory=pin_memory)

    def to_device(
        self, batch: PointBatch, device: torch.device, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
        """Make the arguments of the module: coordinates `(N, 3)` and features `(N, C)` of both views, and the regions.

        Validation has random views too, but fixed ones, so that its loss is comparable and reproducible.
        """
        data = self.config.data
        batch = on_device(batch, device)
        first, second = make_views(
            batch.coord,
            batch.normal if "normals" in data.features else None,
            batch.num_points,
            seed=self.config.seed,
            epoch=int(batch.epoch),
            samples=batch.samples.numpy(),
            rotation_degrees=data.views.rotation_degrees,
            scale=data.views.scale,
        )
        return (
            first.coord,
            self.features(data.features, first, batch),
            second.coord,
            self.features(data.features, second, batch),
            batch.regions,
        )

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Average over scenes; the metrics of a level over the scenes of the batches that have it.

        `region_top1` is the mean of the top-1 accuracies of the levels.
        """
        means = {}
        for name, value in sums.items():
            level = name.rpartition("_level_")[2] if "_level_" in name else ""
            if not name.startswith("scenes_level_"):
                means[name] = value / (sums[f"scenes_level_{level}"] if level else num_samples)
        levels = [value for name, value in means.items() if name.startswith("top1_level_")]
        return {**means, "region_top1": sum(levels) / len(levels)} if levels else means

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Warn if the network collapses: nearly equal features for all points."""
        spread, rank = metrics["feature_std"], metrics["effective_rank"]
        if spread < MIN_FEATURE_STD:
            what = f"they are nearly equal for all points (standard deviation {spread:.3f}; 1 is ideal)"
        elif rank < MIN_EFFECTIVE_RANK:
            what = f"they span {rank:.1f} of {self.config.model.output_dim} dimensions"
        else:
            return ""
        return (
            f"the features are collapsing: {what}. Try a lower training.learning_rate, or a new "
            "run with more scenes per batch or another loss.temperature"
        )

    @property
    def model_name(self) -> str:
        """The network in words."""
        model = self.config.model
        return f"DBBD, {model.aggregation} aggregation, {model.pooling} pooling"


def make_network(config: DbbdConfig) -> DbbdPretraining:
    """Make the network with random weights."""
    model, loss = config.model, config.loss
    return DbbdPretraining(
        feature_dim=config.data.feature_dim,
        hidden_dim=model.hidden_dim,
        output_dim=model.output_dim,
        encoder_hidden_dims=model.encoder_hidden_dims,
        propagator_hidden_dim=model.propagator_hidden_dim,
        projection_dim=model.projection_dim,
        aggregation=model.aggregation,
        pooling=model.pooling,
        num_heads=model.num_heads,
        gradient_checkpointing=model.gradient_checkpointing,
        temperature=loss.temperature,
        region_weight=loss.region_weight,
        point_weight=loss.point_weight,
        relative_propagation=model.relative_propagation,
        symmetric=loss.symmetric,
        negatives=loss.negatives,
        level_weights=loss.level_weights,
        relative_to_chance=loss.relative_to_chance,
    )
