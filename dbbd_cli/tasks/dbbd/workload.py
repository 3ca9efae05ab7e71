"""What the engine trains for DBBD: batches of scenes, their views and features, and the network with its losses.

Legend: N points of a batch, C feature channels of a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.random_numbers import FEATURE_DROPOUT, FEATURE_NOISE, uniform
from dbbd_cli.data.scenes.cuts import Cuts
from dbbd_cli.data.scenes.geometry import GEOMETRY_GROUPS
from dbbd_cli.data.scenes.views import View, make_views, point_noise
from dbbd_cli.model.dbbd.description import Described, DescriptionLoss
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.loss import DbbdLoss
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.weights import load_weights
from dbbd_cli.tasks.dbbd.batches import CutDataset
from dbbd_cli.tasks.dbbd.config import PROGRESS_METRICS, DbbdConfig
from dbbd_cli.tasks.scene_batches import PointBatch, SceneDataset
from dbbd_cli.tasks.scene_config import num_channels
from dbbd_cli.tasks.scene_workload import SceneWorkload, evenly_spaced, fitting_scenes, on_device

MIN_FEATURE_STD = 0.1
MIN_EFFECTIVE_RANK = 2.0
"""Below these, the features of all points are nearly equal, or lie on a line."""


class DbbdWorkload(SceneWorkload):
    """The `Workload` of DBBD.

    Args:
        config: the resolved configuration.
        manifest: the scenes and their splits.
        splits: splits that need loaders.
        pretrained: whether to load `model.weights`, and to fit the description loss to the training split; a checkpoint
            replaces both.
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
            self.add_loader(split, self._dataset(split), batch_size=config.training.batch_size, pin_memory=pin_memory)
            if split == "train" and pretrained and self.module.description is not None:
                self.module.description.codes.fit(self._fitted_features())

    def _fitted_features(self) -> torch.Tensor:
        """Described features of training points, `(N, C)`, to which the description loss is fitted."""
        scenes = self.single_scenes("train", fitting_scenes(range(len(self.manifest.of("train")))))
        return torch.cat([evenly_spaced(self.described_features(scene)) for scene in scenes])

    def described_features(self, batch: PointBatch) -> torch.Tensor:
        """What the description loss describes, `(N, C)`: the features, of normals only |z|, which no view changes."""
        view = View(batch.coord, batch.normal)
        parts = [
            batch.normal[:, 2:].abs() if name == "normals" else self.features([name], view, batch)
            for name in self.config.data.features
        ]
        return torch.cat(parts, dim=1)

    def _dataset(self, split: str) -> SceneDataset:
        """The scenes of a split, cut for the views if they lose points."""
        whole = self.dataset(self.refs(split), point_samples=self.config.loss.point_samples)
        views = self.config.data.views
        cuts = Cuts(**{name: getattr(views, name) for name in Cuts._fields})
        if not cuts.cut_anything:
            return whole
        return CutDataset(
            whole.refs,
            whole.settings,
            whole.cache_dir,
            point_samples=whole.point_samples,
            with_color=whole.with_color,
            seed=whole.seed,
            cuts=cuts,
            with_whole=self.module.description is not None,
        )

    def to_device(self, batch: PointBatch, device: torch.device, *, train: bool) -> tuple[Any, ...]:
        """Make the arguments of the module: coordinates `(N, 3)` and features `(N, C)` of both views, and the regions.

        If the views lose points, the regions of the second one and the local views follow; then what the description
        loss describes, if there is one. Validation has random views too, but fixed ones, so that its loss is comparable
        and reproducible.
        """
        data = self.config.data
        batch = on_device(batch, device)
        settings = data.views
        views = make_views(
            batch.coord,
            batch.normal if "normals" in data.features else None,
            batch.num_points,
            seed=self.config.seed,
            epoch=int(batch.epoch),
            samples=batch.samples.numpy(),
            rotation_degrees=settings.rotation_degrees,
            scale=settings.scale,
            flip=settings.flip,
            jitter=settings.jitter,
            num_views=max(2, 1 + len(batch.partial)),
        )
        features = [self.features(data.features, view, batch) for view in views]
        if settings.feature_noise or settings.feature_dropout:
            features = self._distorted(features, batch)
        first, second, *local = ((view.coord, feature) for view, feature in zip(views, features, strict=True))
        pieces = [(*each, view) for each, view in zip(local, batch.partial[1:], strict=True)]
        arguments = (*first, *second, batch.regions)
        further = (batch.partial[0] if batch.partial else None, pieces)
        if self.module.description is not None:
            return *arguments, *further, Described(self.described_features(batch), batch.whole)
        return (*arguments, *further) if batch.partial else arguments

    def _distorted(self, features: Sequence[torch.Tensor], batch: PointBatch) -> list[torch.Tensor]:
        """The features `(N, C)` of each view with noise, and without the channels that are dropped."""
        views, names = self.config.data.views, self.config.data.features
        where: dict[str, Any] = {"seed": self.config.seed, "epoch": int(batch.epoch), "samples": batch.samples.numpy()}
        channels = features[0].shape[1]
        found = list(features)
        if views.feature_noise:
            width = channels * len(found)
            noise = point_noise(found[0], batch.num_points, width, **where, purpose=FEATURE_NOISE)
            noisy = noise.new_tensor([name != "normals" for name in names for _ in range(num_channels([name]))])
            amount = views.feature_noise * noisy
            found = [one.addcmul(part, amount) for one, part in zip(found, noise.split(channels, dim=1), strict=True)]
        if views.feature_dropout:
            kept = uniform(count=channels * len(found), **where, purpose=FEATURE_DROPOUT) >= views.feature_dropout
            keep = torch.from_numpy(kept.astype(np.float32)).to(found[0].device, non_blocking=True)
            keep = keep.repeat_interleave(batch.num_points, dim=0, output_size=len(found[0]))
            found = [one * part for one, part in zip(found, keep.split(channels, dim=1), strict=True)]
        return found

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


def _description_groups(features: Sequence[str]) -> list[int]:
    """How many channels of `described_features` each group of alike features has."""
    groups: list[int] = []
    for name in features:
        if name == "geometry":
            groups += GEOMETRY_GROUPS.values()
        else:
            groups.append(1 if name == "normals" else num_channels([name]))
    return groups


def make_network(config: DbbdConfig) -> DbbdPretraining:
    """Make the network with random weights."""
    model, loss = config.model, config.loss
    encoder = DbbdEncoder(feature_dim=config.data.feature_dim, **model.encoder_sizes)
    contrast = DbbdLoss(
        input_dim=model.output_dim,
        projection_dim=model.projection_dim,
        kind=loss.kind,
        num_prototypes=loss.num_prototypes,
        temperature=loss.temperature,
        level_temperatures=loss.level_temperatures,
        target_temperature=loss.target_temperature,
        region_weight=loss.region_weight,
        point_weight=loss.point_weight,
        level_weights=loss.level_weights,
        relative_to_chance=loss.relative_to_chance,
    )
    description: DescriptionLoss | None = None
    if loss.description_weight:
        groups = _description_groups(config.data.features)
        description = DescriptionLoss(input_dim=model.output_dim, groups=groups, num_levels=config.data.max_depth + 1)
    return DbbdPretraining(
        encoder,
        contrast,
        symmetric=loss.symmetric,
        negatives=loss.negatives,
        # It moves in each batch: in all batches of a step together by `momentum`.
        momentum=loss.momentum ** (1.0 / config.training.accumulate_batches),
        description=description,
        description_weight=loss.description_weight,
    )
