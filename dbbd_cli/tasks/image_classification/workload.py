"""The workload of image classification: images, a classifier and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import torch

from dbbd_cli.core.paths import shown_url
from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.images.augment import Augmentation
from dbbd_cli.data.images.dataset import ImageBatch, ImageDataset
from dbbd_cli.data.images.manifest import prepare_manifest
from dbbd_cli.data.images.properties import file_properties, pixel_properties, rendered_properties
from dbbd_cli.data.manifest import SPLITS, Manifest
from dbbd_cli.data.properties import Property
from dbbd_cli.model.images.catalog import model_input
from dbbd_cli.model.images.classifier import Classifier, build_network
from dbbd_cli.tasks.classifier_data import class_folders, cleaned_urls, image_refs, shards_of
from dbbd_cli.tasks.classifier_workload import ClassifierWorkload
from dbbd_cli.tasks.image_classification.config import (
    SAMPLE_UNIT,
    ImageClassificationConfig,
)

_IMAGES_AT_ONCE = 8
"""Images that are augmented together on a CPU, so that intermediate results stay in its cache."""


class ImageWorkload(ClassifierWorkload):
    """The `Workload` of image classification.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.
        splits: splits to make loaders for.
        pretrained: whether to load `model.weights`; a checkpoint replaces the weights anyway.
        pin_memory: whether to put batches into page-locked memory.
        progress: receives the images that are prepared.
    """

    config: ImageClassificationConfig
    module: Classifier
    sample_unit = SAMPLE_UNIT
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
        super().__init__(config, manifest)
        data, model = config.data, config.model
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
            shards=shards_of(data),
        )
        self._pixels = prepared.open()
        found, labels = np.array(samples.splits), np.array(samples.labels)
        self._rows = {split: np.flatnonzero(found == split) for split in SPLITS}
        for split in splits:
            rows = self._rows[split]
            dataset = ImageDataset(prepared, rows, labels[rows])
            self.loaders[split] = self._loader(dataset, split, pin_memory=pin_memory)

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

    def urls(self, split: str) -> list[str] | None:
        """Return the URLs of a split that are rendered as QR codes; None if the samples are files."""
        return None if self.manifest.roots else super().urls(split)

    def properties(self, split: str) -> list[Property]:
        """The trivial properties of the files, URLs and pixels of a split, if files and pixels are still there."""
        samples = self.manifest.of(split)
        if self.manifest.roots:
            found = file_properties(image_refs(self.config, self.manifest, samples))
        else:
            found = rendered_properties(cleaned_urls(self.config, samples))
        rows = self._rows[split]
        # Pixels that are not kept would all be decoded once more, which may take hours.
        is_known = len(rows) > 0 and self._pixels.prepared.is_kept
        return [*found, *pixel_properties(self._pixels, rows)] if is_known else found

    def pictures(self, split: str, places: Sequence[int]) -> np.ndarray:
        """Return images of a split as the network gets them, without augmentation: `(P, S, S, C)`, uint8."""
        batch = self.loaders[split].dataset.__getitems__([(0, place) for place in places])
        pixels: np.ndarray = batch.pixels.numpy()
        return pixels.transpose(0, 2, 3, 1)

    @property
    def origin(self) -> str:
        """The origin of the images, in words."""
        data, path = self.config.data, shown_url(self.config.data.path or "")
        return {
            "synthetic": "synthetic URLs as QR codes",
            "urls": f"URLs in {path} as QR codes",
            "folder": f"images in {path}",
            "table": f"images of {path}",
            "shards": f"images in the shards {path}",
            "classes": "images in a folder for each class",
        }[data.source]


@cache
def _shifts(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The number added to each channel in normalization; cached, because copying to a GPU blocks."""
    return tuple(torch.tensor(-m / s, device=device) for m, s in zip(mean, std, strict=True))
