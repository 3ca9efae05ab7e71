"""What the workloads of the tasks on 3D scenes share: batches of scenes, and the features of their points.

Legend: N points of a batch, C feature channels of a point.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import PreparedScene, SceneRef, SceneSettings
from dbbd_cli.data.scenes.manifest import prepare_scenes
from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES
from dbbd_cli.data.scenes.views import View
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.tasks.scene_batches import PointBatch, SceneDataset, SceneLoader
from dbbd_cli.tasks.scene_config import SAMPLE_UNIT, SceneDataConfig
from dbbd_cli.tasks.scene_data import prepared_scenes, split_refs

_FITTED_SCENES = 100
_FITTED_POINTS_PER_SCENE = 3000
"""Training scenes and points, evenly spaced, to which what depends on the training data as a whole is fitted."""


class SceneWorkload(ABC):
    """The `Workload` of a task on scenes.

    Args:
        config: the resolved configuration, whose `data` is a `SceneDataConfig`.
        manifest: the scenes and their splits.
    """

    sample_unit = SAMPLE_UNIT
    shares_batches = True
    out_of_memory_hint = "set model.gradient_checkpointing=true, or start a run with a smaller training.batch_size"
    module: nn.Module

    def __init__(self, config: Any, manifest: Manifest) -> None:
        self.config = config
        self.manifest = manifest
        self.loaders: dict[str, BatchLoader] = {}

    @property
    def data(self) -> SceneDataConfig:
        """The settings of the scenes."""
        return self.config.data

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """No factors: all parameters train at the same learning rate."""
        return {}

    def add_loader(self, split: str, dataset: SceneDataset, *, batch_size: int, pin_memory: bool) -> None:
        """Add the loader of a split, shuffled for training."""
        self.loaders[split] = SceneLoader(
            dataset,
            batch_size=batch_size,
            shuffle=split == "train",
            seed=self.config.seed,
            num_workers=self.data.num_workers,
            worker_timeout=self.data.worker_timeout,
            batches_in_use=self.config.training.accumulate_batches if split == "train" else 1,
            pin_memory=pin_memory,
        )

    def refs(self, split: str) -> list[SceneRef]:
        """References to the scenes of a split."""
        return split_refs(self.config, self.manifest, split)

    def prepare(self, split: str, progress: Progress) -> None:
        """Prepare the scenes of a split that the cache does not contain."""
        dataset = self.dataset(self.refs(split), point_samples=None)
        prepare_scenes(dataset.refs, dataset.settings, dataset.cache_dir, progress)

    def dataset(self, refs: list[SceneRef], *, point_samples: int | None, with_segment: bool = False) -> SceneDataset:
        """The dataset of these scenes; without `point_samples`, all points are picked, in order."""
        return SceneDataset(
            refs,
            SceneSettings(**self.data.preparation),
            cache_folder(self.data.cache_dir),
            point_samples=point_samples,
            with_color="color" in self.data.all_features,
            with_segment=with_segment,
            seed=self.config.seed,
        )

    def single_scenes(self, split: str, numbers: Iterable[int] | None = None) -> Iterator[PointBatch]:
        """The scenes of a split, or those with these numbers, one by one, with all points and labels."""
        dataset = self.dataset(self.refs(split), point_samples=None, with_segment=True)
        for number in range(len(dataset)) if numbers is None else numbers:
            yield dataset.__getitems__([(0, number)])

    def prepared_scenes(self, split: str, numbers: Iterable[int] | None = None) -> Iterator[PreparedScene]:
        """The prepared scenes of a split, or those with these numbers, one by one."""
        return prepared_scenes(self.config, self.manifest, split, numbers)

    def without_views(self, batch: PointBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, RegionBatch]:
        """Coordinates `(N, 3)`, features `(N, C)` and regions of the scenes without augmentation."""
        batch = on_device(batch, device)
        return batch.coord, self.features(self.data.features, View(batch.coord, batch.normal), batch), batch.regions

    def features(self, names: Sequence[str], view: View, batch: PointBatch) -> torch.Tensor:
        """These features of the points of a view, side by side, `(N, C)`."""
        columns = []
        for feature in names:
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
                place = self.data.properties.index(feature)
                columns.append(batch.properties[:, place : place + 1])
        return torch.cat(columns, dim=1)

    def names(self, batch: PointBatch, split: str) -> list[str]:
        """The scenes of the batch."""
        keys = self.manifest.of(split).keys
        return [keys[index] for index in batch.samples.tolist()]

    @property
    def monitor(self) -> str:
        """The validation metric that decides which epoch is best."""
        return self.config.checkpoint.metric

    @property
    def data_description(self) -> str:
        """The scenes and their features in words."""
        where = "synthetic furnished rooms" if self.data.path is None else f"scenes of {self.data.path}"
        return f"{where} (features: {', '.join(self.data.all_features)})"

    def class_name(self, label: int) -> str:
        """The name of the class of a label."""
        names = self.data.class_names or (ROOM_CLASSES if self.data.source == "synthetic" else ())
        return names[label] if 0 <= label < len(names) else f"class {label}"


def fitting_scenes(numbers: Sequence[int]) -> Sequence[int]:
    """Those of training scenes that are used to fit what depends on the training data as a whole."""
    return numbers[:: max(1, -(-len(numbers) // _FITTED_SCENES))]


def evenly_spaced(values: torch.Tensor) -> torch.Tensor:
    """Those of the points of a scene, `(N, …)`, that are used to fit."""
    return values[:: fitting_stride(len(values))]


def fitting_stride(num_points: int) -> int:
    """Of how many points of a scene one is used to fit."""
    return max(1, num_points // _FITTED_POINTS_PER_SCENE)


def on_device(batch: PointBatch, device: torch.device) -> PointBatch:
    """The batch on a device, without `samples` and `epoch`, from which random numbers are made on the CPU."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    return batch._replace(
        coord=move(batch.coord),
        normal=move(batch.normal),
        color=None if batch.color is None else move(batch.color),
        segment=None if batch.segment is None else move(batch.segment),
        geometry=None if batch.geometry is None else move(batch.geometry),
        properties=None if batch.properties is None else move(batch.properties),
        num_points=move(batch.num_points),
        regions=batch.regions.to(device, non_blocking=True),
        partial=tuple(view.to(device, non_blocking=True) for view in batch.partial),
        whole=None if batch.whole is None else batch.whole.to(device, non_blocking=True),
    )
