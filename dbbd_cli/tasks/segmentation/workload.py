"""What the engine trains for segmentation: batches of labeled scenes, and the network with its loss.

Legend: N points of a batch, C channels of the encoder's and F of the head's features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.scenes.cache import SceneSettings
from dbbd_cli.data.scenes.views import View
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.dbbd.encoder import DbbdEncoder
from dbbd_cli.model.dbbd.regions import RegionBatch
from dbbd_cli.model.dbbd.segmentation import IGNORED, LinearHead, PointHead, SceneSegmenter
from dbbd_cli.model.dbbd.weights import load_encoder
from dbbd_cli.model.forest import Forest
from dbbd_cli.model.linear_probe import scores_of_counts
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_config import num_channels
from dbbd_cli.tasks.scene_workload import SceneWorkload, fitting_scenes, fitting_stride, on_device
from dbbd_cli.tasks.segmentation.augmentation import augment
from dbbd_cli.tasks.segmentation.batches import LabeledDataset
from dbbd_cli.tasks.segmentation.config import PROGRESS_METRICS, SegmentationConfig

_LINEAR_POINTS = 40_000
"""Labeled points, at most, to which the linear classifier is fitted, but for rare classes."""
_LINEAR_VALUES = 40_000_000
"""Values, at most, of all inputs of these points together: half a gigabyte while it is fitted."""


class SegmentationWorkload(SceneWorkload):
    """The `Workload` of segmentation.

    Args:
        config: the resolved configuration, with `data.labels`.
        manifest: the scenes and their splits.
        splits: splits that need loaders.
        pretrained: whether to load `model.weights`, and to fit the network to the training split; a checkpoint replaces
            both.
        pin_memory: whether to put batches into page-locked memory.
        progress: shows scenes that are being prepared.

    Raises:
        DataError: a scene is missing or has changed since the manifest was made, and is not in the cache.
        CheckpointError: `model.weights` does not match the network.
    """

    config: SegmentationConfig
    module: SceneSegmenter
    progress_metrics = PROGRESS_METRICS
    out_of_memory_hint = "lower loss.point_samples or training.batch_size"

    def __init__(
        self,
        config: SegmentationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> None:
        super().__init__(config, manifest)
        assert config.data.labels is not None, "with_samples has set them"
        self.labels = config.data.labels
        self.module = make_network(config)
        if pretrained and config.model.weights != "none":
            load_encoder(self.module.encoder, Path(config.model.weights))
        for split in splits:
            self.prepare(split, progress)
            dataset = LabeledDataset(
                self.refs(split),
                SceneSettings(**config.data.preparation),
                cache_folder(config.data.cache_dir),
                point_samples=config.loss.point_samples if split == "train" else None,
                with_color="color" in config.data.all_features,
                seed=config.seed,
                labels=self.labels,
            )
            self.add_loader(split, dataset, batch_size=config.training.batch_size, pin_memory=pin_memory)
            if split == "train" and pretrained:
                self._fit()

    def _fit(self) -> None:
        """Fit what depends on the training data as a whole."""
        counts = {}
        for number, scene in enumerate(self.prepared_scenes("train")):
            if scene.segment is not None:
                classes = self.classes(torch.from_numpy(np.array(scene.segment)))
                found = torch.bincount(classes[classes != IGNORED], minlength=len(self.labels))
                if found.any():
                    counts[number] = found
        numbers = _with_all_classes(counts)
        features, targets = [], []
        for values, target in self.labeled_points("train", numbers):
            chosen = spaced_by_class(target, fitting_stride(len(target)))
            features.append(values[chosen])
            targets.append(target[chosen])
        self.module.fit(
            torch.cat(features),
            torch.cat(targets),
            torch.stack([*counts.values()]).sum(0),
            weighting=self.config.loss.class_weights,
            seed=self.config.seed,
        )
        if self.module.linear is not None:
            self._fit_linear(self.module.linear, numbers)

    def _fit_linear(self, linear: LinearHead, numbers: Sequence[int]) -> None:
        """Fit the linear classifier to evenly spaced labeled points of these training scenes."""
        codes, regions, targets = [], [], []
        most = min(_LINEAR_POINTS, _LINEAR_VALUES // linear.num_inputs)
        for scene in self.single_scenes("train", numbers):
            assert scene.segment is not None
            classes = self.classes(scene.segment)
            labeled = (classes != IGNORED).nonzero()[:, 0]
            chosen = labeled[spaced_by_class(classes[labeled], max(1, -(-len(labeled) * len(numbers) // most)))]
            with torch.no_grad():
                found = self.module.linear_inputs(*self.inputs(scene), chosen)
            codes.append(found[0])
            regions.append(found[1])
            targets.append(classes[chosen])
        # Rare classes weigh more in the fit, and by their weights once more in evaluation: neither alone is as good.
        balance = 0.0 if self.config.loss.class_weights == "none" else 0.5
        linear.fit(torch.cat(codes), torch.cat(regions), torch.cat(targets), balance=balance)

    def labeled_points(
        self, split: str, numbers: Iterable[int] | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features of the head `(N, F)` and classes `(N,)` of the labeled points of each scene; see `single_scenes`."""
        for scene in self.single_scenes(split, numbers):
            assert scene.segment is not None
            classes = self.classes(scene.segment)
            features = self.features(self.config.data.head_features, View(scene.coord, scene.normal), scene)
            labeled = classes != IGNORED
            yield features[labeled], classes[labeled]

    def classes(self, segment: torch.Tensor) -> torch.Tensor:
        """The index in `labels` of each label, int64; `IGNORED` for others."""
        labels = torch.tensor(self.labels, device=segment.device, dtype=segment.dtype)
        place = torch.searchsorted(labels, segment).clamp(max=len(labels) - 1)
        return torch.where(labels[place] == segment, place, IGNORED)

    def to_device(
        self, batch: PointBatch, device: torch.device, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch, torch.Tensor]:
        """Make the arguments of the module; in training, after augmentation."""
        batch = on_device(batch, device)
        assert batch.segment is not None
        classes = self.classes(batch.segment)
        if not train:
            return *self.inputs(batch), classes
        changed = augment(
            batch.coord,
            batch.normal,
            batch.color,
            batch.num_points,
            self.config.data.augment,
            seed=self.config.seed,
            epoch=int(batch.epoch),
            samples=batch.samples.numpy(),
        )
        batch = batch._replace(coord=changed.coord, normal=changed.normal, color=changed.color)
        coord, encoder_features, head_features, regions = self.inputs(batch)
        if changed.is_hidden is not None:
            hidden = changed.is_hidden[:, None]
            encoder_features = encoder_features.masked_fill(hidden, 0.0)
            head_features = head_features.masked_fill(hidden, 0.0)
            classes = classes.masked_fill(changed.is_hidden, IGNORED)
        return coord, encoder_features, head_features, regions, classes

    def inputs(self, batch: PointBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, RegionBatch]:
        """The arguments of `SceneSegmenter.log_shares` for a batch on the device."""
        view, data = View(batch.coord, batch.normal), self.config.data
        seen = self.features(data.features, view, batch)
        judged = seen if data.head_features == data.features else self.features(data.head_features, view, batch)
        return batch.coord, seen, judged, batch.regions

    def shares(self, scene: PointBatch, runtime: Runtime) -> torch.Tensor:
        """The probabilities of the classes for each point of a scene, `(N, K)` float32, on the CPU."""
        self.module.eval()
        with torch.inference_mode(), runtime.autocast():
            log_shares = self.module.log_shares(*self.inputs(on_device(scene, runtime.device)))
        return log_shares.exp().cpu()

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """The factor of the learning rate of the encoder."""
        factor = self.config.training.encoder_lr_factor
        return {} if factor == 1.0 else {"encoder.": factor}

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """The mean loss over scenes, and scores over all points."""
        counts = [sums[f"counts_{place}"] for place in range(3 * len(self.labels))]
        scores = scores_of_counts(torch.tensor(counts, dtype=torch.float64).view(3, -1))
        return {
            "loss": sums["loss"] / num_samples,
            "miou": scores.miou,
            "mean_accuracy": scores.mean_accuracy,
            "overall_accuracy": scores.overall_accuracy,
        }

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return no warning."""
        return ""

    @property
    def model_name(self) -> str:
        """The network in words."""
        model = self.config.model
        encoder = {"both": "DBBD encoder (both branches)", "none": ""}
        parts = [encoder.get(model.branches, f"DBBD encoder ({model.branches.upper()})")]
        parts.append("means over regions" if model.region_means else "")
        return f"{' and '.join(filter(None, parts)) or 'Point features'} with a head for {len(self.labels)} classes"

    @property
    def class_names(self) -> list[str]:
        """The names of the classes."""
        return [self.class_name(label) for label in self.labels]


def _with_all_classes(counts: Mapping[int, torch.Tensor]) -> list[int]:
    """The training scenes to fit to, in which every class occurs that occurs at all.

    Args:
        counts: labeled points of each class `(K,)` of the labeled scenes, by number.
    """
    numbers = {*fitting_scenes([*counts])}
    occurs = torch.stack([*counts.values()]).sum(0) > 0
    for place in (occurs & ~(torch.stack([counts[number] for number in numbers]).sum(0) > 0)).nonzero()[:, 0]:
        numbers.add(max(counts, key=lambda number: int(counts[number][place])))
    return sorted(numbers)


def spaced_by_class(classes: torch.Tensor, stride: int) -> torch.Tensor:
    """Indices of every `stride`-th of the points of each class, ascending: at least one of each.

    Args:
        classes: of the points, `(N,)`.
        stride: see above.
    """
    order = classes.argsort(stable=True)
    size = torch.bincount(classes)
    place = torch.arange(len(classes)) - (size.cumsum(0) - size)[classes[order]]
    return order[place % stride == 0].sort().values


def make_network(config: SegmentationConfig) -> SceneSegmenter:
    """Make the network with random weights."""
    data, model = config.data, config.model
    assert data.labels is not None
    encoder = DbbdEncoder(feature_dim=data.feature_dim, **model.encoder_sizes)
    num_branches = {"both": 2, "none": 0}.get(model.branches, 1)
    head = PointHead(
        feature_dim=num_channels(data.head_features),
        num_pieces=model.head_pieces,
        levels=range(min(model.first_level, data.max_depth), data.max_depth + 1),
        region_means=model.region_means,
        region_dim=model.output_dim,
        num_branches=num_branches,
        hidden_dim=model.head_hidden_dim,
        members=model.head_members,
        num_classes=len(data.labels),
        dropout=model.dropout,
    )
    frozen = config.training.freeze == "encoder"
    region_dim = head.codes.num_codes * model.region_means + model.output_dim * num_branches * frozen
    linear = LinearHead(
        point_dim=head.codes.num_codes,
        region_dim=region_dim,
        num_levels=len(head.levels) if region_dim else 0,
        num_classes=len(data.labels),
    )
    return SceneSegmenter(
        encoder,
        head,
        branches=model.branches,
        forest=Forest(model.forest_trees, len(data.labels)) if model.forest_trees else None,
        forest_share=model.forest_share,
        linear=linear if model.linear_share else None,
        linear_share=model.linear_share,
        freeze_encoder=frozen,
        lovasz_weight=config.loss.lovasz_weight,
    )
