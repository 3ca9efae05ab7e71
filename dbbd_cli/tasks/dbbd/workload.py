"""DBBD: scenes, the network with its two branches, and the contrastive losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache_dir import cache_folder
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.data.scenes.manifest import prepare_scenes, scene_refs
from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES
from dbbd_cli.data.scenes.views import View, make_views
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Evaluation
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining, load_pretraining
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.tasks.dbbd.batches import PointBatch, SceneDataset
from dbbd_cli.tasks.dbbd.config import DbbdConfig

LEAST_STD = 0.1
LEAST_RANK = 2.0
"""Below these the features of all points are nearly the same, or lie on a line."""


class DbbdWorkload:
    """The `Workload` of DBBD.

    Args:
        config: the resolved configuration.
        manifest: the scenes and their splits.
        splits: splits to make loaders for.
        pretrained: whether `model.weights` is followed; a finished checkpoint needs none of it.
        pin_memory: whether batches are put into page-locked memory.
        progress: told of scenes that are prepared.

    Raises:
        DataError: a scene is gone or has changed since the manifest was made, and the cache lacks it.
        CheckpointError: `model.weights` does not fit.
    """

    sample_unit = "scenes"
    progress_metrics = ("loss", "point_top1")
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
            load_pretraining(self.module, Path(config.model.weights))
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
                pin_memory=pin_memory,
            )

    def refs(self, split: str) -> list[SceneRef]:
        """Where the scenes of a split are."""
        data = self.config.data
        return scene_refs(
            self.manifest,
            split,
            root=Path(data.path) if data.path is not None else None,
            num_points=data.synthetic_points,
            seed=self.config.seed,
        )

    def prepare(self, split: str, progress: Progress) -> None:
        """Makes sure that the cache holds the scenes of a split."""
        dataset = self.dataset(self.refs(split), point_samples=None)
        prepare_scenes(dataset.refs, dataset.settings, dataset.cache_dir, progress)

    def dataset(self, refs: list[SceneRef], *, point_samples: int | None, with_segment: bool = False) -> SceneDataset:
        """Batches of scenes, whose points are all taken, in order, where `point_samples` is None."""
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
        """The scenes of a split one by one, as the cache has them."""
        dataset = self.dataset(self.refs(split), point_samples=None)
        return (prepared_scene(ref, dataset.settings, dataset.cache_dir) for ref in dataset.refs)

    def to_device(
        self, batch: PointBatch, device: torch.device, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
        """Returns coordinates `(N, 3)` and features `(N, C)` of both views, and the regions.

        The views of validation are drawn too, once and for all: its loss is that of the same task, and always the same.
        """
        data = self.config.data
        batch = moved(batch, device)
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

    def unchanged(self, batch: PointBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, RegionBatch]:
        """Coordinates `(N, 3)`, features `(N, C)` and regions of the scenes as they are."""
        batch = moved(batch, device)
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
            else:
                columns.append(view.coord[:, 2:])
        return torch.cat(columns, dim=1)

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Means over scenes; those of a level over the scenes of the batches that had it.

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
        """Tells of a collapse: features that are nearly the same for every point."""
        spread, rank = metrics["feature_std"], metrics["effective_rank"]
        if spread < LEAST_STD:
            what = f"those of all points are nearly the same (deviation {spread:.3f}, where 1 is ideal)"
        elif rank < LEAST_RANK:
            what = f"they fill {rank:.1f} of {self.config.model.output_dim} dimensions"
        else:
            return ""
        return (
            f"the features are collapsing: {what}. They will be of little use: try a lower "
            "training.learning_rate, or a new run with more scenes per batch or another loss.temperature"
        )

    def names(self, batch: PointBatch, split: str) -> list[str]:
        """The scenes of the batch."""
        samples = self.manifest.of(split)
        return [samples[index].key for index in batch.samples.tolist()]

    def evaluate(self, split: str, runtime: Runtime, progress: Progress) -> Evaluation:
        """Losses compared with chance, retrieval, and linear probes; `evaluation_scene.npz` has one scene to draw."""
        from dbbd_cli.tasks.dbbd.evaluate import evaluate_points

        return evaluate_points(self, runtime, split, progress)

    @property
    def monitor(self) -> str:
        """The metric of the configuration."""
        return self.config.checkpoint.metric

    @property
    def model_name(self) -> str:
        """The network."""
        model = self.config.model
        return f"DBBD, {model.aggregation} aggregation, {model.pooling} pooling"

    @property
    def data_description(self) -> str:
        """Where the scenes come from, in words."""
        data = self.config.data
        where = "synthetic furnished rooms" if data.path is None else f"scenes of {data.path}"
        return f"{where} (features: {', '.join(data.features)})"

    def class_name(self, label: int) -> str:
        """What the class of a label is called."""
        data = self.config.data
        names = data.class_names or (ROOM_CLASSES if data.source == "synthetic" else ())
        return names[label] if label < len(names) else f"class {label}"


def make_network(config: DbbdConfig) -> DbbdPretraining:
    """The network with random weights."""
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
    )


def moved(batch: PointBatch, device: torch.device) -> PointBatch:
    """The batch on a device; what the random numbers come from stays where it is."""

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    return batch._replace(
        coord=there(batch.coord),
        normal=there(batch.normal),
        color=None if batch.color is None else there(batch.color),
        num_points=there(batch.num_points),
        regions=batch.regions.to(device, non_blocking=True),
    )
