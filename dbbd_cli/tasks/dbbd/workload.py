"""What the engine trains for DBBD: batches of scenes, their views and features, and the network with its losses.

Legend: N points of a batch, C feature channels of a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.data.scenes.manifest import prepare_scenes, scene_refs
from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES
from dbbd_cli.data.scenes.views import View, make_views
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.model.dbbd.weights import load_weights
from dbbd_cli.tasks.dbbd.batches import PointBatch, SceneDataset
from dbbd_cli.tasks.dbbd.config import PROGRESS_METRICS, SAMPLE_UNIT, DbbdConfig

MIN_FEATURE_STD = 0.1
MIN_EFFECTIVE_RANK = 2.0
"""Below these, the features of all points are nearly equal, or lie on a line."""


class DbbdWorkload:
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

    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    out_of_memory_hint = "set model.gradient_checkpointing=true, or start a run with a smaller training.batch_size"

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
        self.config = config
        self.manifest = manifest
        self.module = make_network(config)
        if pretrained and config.model.weights != "none":
            load_weights(self.module, Path(config.model.weights))
        self.loaders: dict[str, BatchLoader] = {}
        for split in splits:
            self.prepare(split, progress)
            self.loaders[split] = BatchLoader(
                self.dataset(self.refs(split), point_samples=config.loss.point_samples),
                batch_size=config.training.batch_size,
                shuffle=split == "train",
                seed=config.seed,
                num_workers=config.data.num_workers,
                worker_timeout=config.data.worker_timeout,
                batches_in_use=config.training.accumulate_batches if split == "train" else 1,
                pin_memory=pin_memory,
            )

    def refs(self, split: str) -> list[SceneRef]:
        """References to the scenes of a split."""
        data = self.config.data
        return scene_refs(
            self.manifest,
            split,
            root=Path(data.path) if data.path is not None else None,
            num_points=data.synthetic_points,
            seed=self.config.seed,
        )

    def prepare(self, split: str, progress: Progress) -> None:
        """Prepare the scenes of a split that the cache does not contain."""
        dataset = self.dataset(self.refs(split), point_samples=None)
        prepare_scenes(dataset.refs, dataset.settings, dataset.cache_dir, progress)

    def dataset(self, refs: list[SceneRef], *, point_samples: int | None, with_segment: bool = False) -> SceneDataset:
        """The dataset of these scenes; without `point_samples`, the point loss compares all points, in order."""
        return SceneDataset(
            refs,
            SceneSettings(**self.config.data.preparation),
            cache_folder(self.config.data.cache_dir),
            point_samples=point_samples,
            with_color="color" in self.config.data.features,
            with_segment=with_segment,
            seed=self.config.seed,
        )

    def single_scenes(self, split: str) -> Iterator[PointBatch]:
        """The scenes of a split one by one, with all points and labels."""
        dataset = self.dataset(self.refs(split), point_samples=None, with_segment=True)
        for index in range(len(dataset)):
            yield dataset.__getitems__([(0, index)])

    def prepared_scenes(self, split: str) -> Iterator[PreparedScene]:
        """The prepared scenes of a split, one by one."""
        dataset = self.dataset(self.refs(split), point_samples=None)
        return (prepared_scene(ref, dataset.settings, dataset.cache_dir) for ref in dataset.refs)

    def to_device(
        self, batch: PointBatch, device: torch.device, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
        """Make the arguments of the module: coordinates `(N, 3)` and features `(N, C)` of both views, and the regions.

        Validation has random views too, but fixed ones, so that its loss is comparable and reproducible.
        """
        data = self.config.data
        batch = _on_device(batch, device)
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
        return first.coord, self._features(first, batch), second.coord, self._features(second, batch), batch.regions

    def without_views(self, batch: PointBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, RegionBatch]:
        """Coordinates `(N, 3)`, features `(N, C)` and regions of the scenes without augmentation."""
        batch = _on_device(batch, device)
        return batch.coord, self._features(View(batch.coord, batch.normal), batch), batch.regions

    def _features(self, view: View, batch: PointBatch) -> torch.Tensor:
        columns = []
        for feature in self.config.data.features:
            if feature == "normals":
                assert view.normal is not None
                columns.append(view.normal)
            elif feature == "color":
                assert batch.color is not None
                columns.append(batch.color.float() / 255.0)
            elif feature == "height":
                columns.append(view.coord[:, 2:])
            elif feature == "geometry":
                assert batch.geometry is not None
                columns.append(batch.geometry.float())
            else:
                assert batch.properties is not None
                place = self.config.data.properties.index(feature)
                columns.append(batch.properties[:, place : place + 1])
        return torch.cat(columns, dim=1)

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

    def names(self, batch: PointBatch, split: str) -> list[str]:
        """The scenes of the batch."""
        samples = self.manifest.of(split)
        return [samples[index].key for index in batch.samples.tolist()]

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is best."""
        return self.config.checkpoint.metric

    @property
    def model_name(self) -> str:
        """The network in words."""
        model = self.config.model
        return f"DBBD, {model.aggregation} aggregation, {model.pooling} pooling"

    @property
    def data_description(self) -> str:
        """The scenes and their features in words."""
        data = self.config.data
        where = "synthetic furnished rooms" if data.path is None else f"scenes of {data.path}"
        return f"{where} (features: {', '.join(data.features)})"

    def class_name(self, label: int) -> str:
        """The name of the class of a label."""
        data = self.config.data
        names = data.class_names or (ROOM_CLASSES if data.source == "synthetic" else ())
        return names[label] if label < len(names) else f"class {label}"


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


def _on_device(batch: PointBatch, device: torch.device) -> PointBatch:
    """The batch on a device, without `samples` and `epoch`, from which random numbers are made on the CPU."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    return batch._replace(
        coord=move(batch.coord),
        normal=move(batch.normal),
        color=None if batch.color is None else move(batch.color),
        geometry=None if batch.geometry is None else move(batch.geometry),
        properties=None if batch.properties is None else move(batch.properties),
        num_points=move(batch.num_points),
        regions=batch.regions.to(device, non_blocking=True),
    )
