"""The workload of image classification: images, a classifier and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import torch

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.images.augment import Augmentation
from dbbd_cli.data.images.dataset import ImageBatch, ImageDataset
from dbbd_cli.data.images.manifest import prepare_manifest
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.model.classification import macro_f1
from dbbd_cli.model.images.catalog import model_input
from dbbd_cli.model.images.classifier import Classifier, build_network
from dbbd_cli.tasks.class_folders import class_folders
from dbbd_cli.tasks.image_classification.config import (
    PROGRESS_METRICS,
    SAMPLE_UNIT,
    ImageClassificationConfig,
)

_IMAGES_AT_ONCE = 8
"""Images that are augmented together on a CPU, so that intermediate results stay in its cache."""


class ImageWorkload:
    """The `Workload` of image classification.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.
        splits: splits to make loaders for.
        pretrained: whether to load `model.weights`; a checkpoint replaces the weights anyway.
        pin_memory: whether to put batches into page-locked memory.
        progress: receives the images that are prepared.
    """

    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    out_of_memory_hint = (
        "lower training.batch_size, and raise training.accumulate_batches by as much; or lower data.image_size"
    )

    def __init__(
        self,
        config: ImageClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> None:
        self.config = config
        self.manifest = manifest
        data, model = config.data, config.model
        if data.positive_class is not None and data.positive_class not in manifest.classes:
            raise ConfigError(
                f"data.positive_class: there is no class {data.positive_class!r}",
                hint=f"choose one of: {_named(manifest.classes)}",
            )
        expected = model_input(model.name)
        self._normalization = expected.mean, expected.std
        self.module = Classifier(
            build_network(
                model.name,
                num_classes=len(manifest.classes),
                image_size=config.image_size,
                dropout=model.dropout,
                weights=model.weights if pretrained else "none",
            ),
            label_smoothing=config.training.label_smoothing,
        )
        splits = tuple(splits)
        self.loaders: dict[str, BatchLoader] = {}
        if not splits:  # only the network is needed, and the images of the run may be gone
            return
        prepared, samples = prepare_manifest(
            manifest,
            splits=splits,
            roots=class_folders(data, manifest),
            cleaning=data.urls,
            image_size=config.image_size,
            cache_dir=cache_folder(data.cache_dir),
            progress=progress,
        )
        for split in splits:
            rows = [row for row, sample in enumerate(samples) if sample.split == split]
            self.loaders[split] = BatchLoader(
                ImageDataset(prepared, rows, [samples[row].label for row in rows]),
                batch_size=config.training.batch_size,
                shuffle=split == "train",
                seed=config.seed,
                num_workers=data.num_workers,
                worker_timeout=data.worker_timeout,
                batches_in_use=config.training.accumulate_batches if split == "train" else 1,
                pin_memory=pin_memory,
            )

    def to_device(self, batch: ImageBatch, device: torch.device, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns normalized images `(B, 3, S, S)` and labels `(B,)` on the device."""
        pixels = batch.pixels.to(device, non_blocking=True)
        num_images, channels, size, _ = pixels.shape
        changes = self._augmentation(batch, (channels, size), device) if train else None
        mean, std = self._normalization
        shifts = _shifts(mean, std, device)
        images = torch.empty(num_images, 3, size, size, device=device)
        at_once = _IMAGES_AT_ONCE if device.type == "cpu" else num_images
        for first in range(0, num_images, at_once):
            part = slice(first, first + at_once)
            values = pixels[part].float().div_(255.0) if changes is None else changes.apply(pixels[part], first)
            # A grayscale image (C = 1) gets three channels here. One channel at a time is fastest.
            planes = zip(images[part].unbind(1), values.expand(-1, 3, -1, -1).unbind(1), shifts, std, strict=True)
            for normalized, plane, shift, scale in planes:
                torch.add(shift, plane, alpha=1.0 / scale, out=normalized)
        return images, batch.labels.to(device, non_blocking=True)

    def _augmentation(self, batch: ImageBatch, shape: tuple[int, int], device: torch.device) -> Augmentation:
        settings = self.config.data.augment
        return Augmentation(
            seed=self.config.seed,
            epoch=int(batch.epoch),
            samples=batch.samples,
            shape=shape,
            device=device,
            rotation_degrees=settings.rotation_degrees,
            brightness=settings.brightness,
            contrast=settings.contrast,
        )

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Compute the mean loss and accuracy over samples and, except in training, the mean F1 over classes."""
        metrics = {"loss": sums["loss"] / num_samples, "accuracy": sums["accuracy"] / num_samples}
        if "f1_0" in sums:
            metrics["f1"] = macro_f1([sums[f"f1_{place}"] for place in range(2 * len(self.manifest.classes))])
        return metrics

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return no warning."""
        return ""

    def names(self, batch: ImageBatch, split: str) -> list[str]:
        """Return the paths or URLs of the batch's images."""
        samples = self.manifest.of(split)
        return [samples[index].key for index in batch.samples.tolist()]

    @property
    def false_positive_rate(self) -> float:
        """The false-positive rate that the decision threshold is chosen for."""
        return self.config.evaluation.false_positive_rate

    def urls(self, split: str) -> list[str] | None:
        """Return the URLs of a split that are rendered as QR codes; None if the samples are files."""
        if self.config.data.source not in ("urls", "synthetic"):
            return None
        return [clean_url(sample.key, self.config.data.urls) for sample in self.manifest.of(split)]

    def pictures(self, split: str, places: Sequence[int]) -> np.ndarray:
        """Return images of a split as the network gets them, without augmentation: `(P, S, S, C)`, uint8."""
        batch = self.loaders[split].dataset.__getitems__([(0, place) for place in places])
        pixels: np.ndarray = batch.pixels.numpy()
        return pixels.transpose(0, 2, 3, 1)

    @property
    def monitor(self) -> str:
        """The metric that decides which epoch is best."""
        return self.config.checkpoint.metric

    @property
    def model_name(self) -> str:
        """The architecture."""
        return self.config.model.name

    @property
    def data_description(self) -> str:
        """The origin of the images and the classes, in words."""
        data, classes = self.config.data, self.manifest.classes
        where = {
            "synthetic": "synthetic URLs as QR codes",
            "urls": f"URLs in {data.path} as QR codes",
            "folder": f"images in {data.path}",
            "classes": "images in a folder for each class",
        }
        return f"{where[data.source]} ({counted(len(classes), 'class')}: {_named(classes)})"

    @property
    def positive_class(self) -> str | None:
        """The positive class if there are two classes."""
        classes = self.manifest.classes
        return (self.config.data.positive_class or classes[-1]) if len(classes) == 2 else None


@cache
def _shifts(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The number added to each channel in normalization; cached, because copying to a GPU blocks."""
    return tuple(torch.tensor(-m / s, device=device) for m, s in zip(mean, std, strict=True))


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
