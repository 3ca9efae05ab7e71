"""The task `image_classification`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.classifier import ClassifierTask
from dbbd_cli.tasks.image_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, ImageClassificationConfig

if TYPE_CHECKING:
    import numpy as np

    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.candidates import Source
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.prediction import Calibration, Prediction
    from dbbd_cli.tasks.image_classification.workload import ImageWorkload


class ImageClassification(ClassifierTask):
    """Classification of images, or of URLs rendered as QR codes."""

    name = "image_classification"
    config_class = ImageClassificationConfig
    smoke_config = "smoke_qr"
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS

    def make_manifest(self, config: ImageClassificationConfig, progress: Progress) -> Manifest:
        """List the images, check them, and divide each class into splits."""
        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.images.manifest import make_manifest

        data = config.data
        return make_manifest(
            _list_images(config),
            cleaning=data.urls,
            sample_per_class=data.sample_per_class,
            report_limit="sample_per_class" in data.model_fields_set,
            shares=(data.split.train, data.split.val, data.split.test),
            group_by_host=data.split.group == "host",
            on_error=data.on_error,
            image_size=config.image_size,
            cache_dir=cache_folder(data.cache_dir),
            seed=config.seed,
            progress=progress,
        )

    def sample_properties(
        self, config: ImageClassificationConfig, manifest: Manifest, positions: Sequence[int], progress: Progress
    ) -> list[Property]:
        """Of files: size, bit depth and the like; of URLs: scheme, length and the like; of both: the mean gray."""
        from dbbd_cli.data.images.properties import code_properties, file_properties, pixel_properties
        from dbbd_cli.data.urls.properties import url_properties

        if manifest.roots:
            found = file_properties(_paths(manifest, positions))
        else:
            urls = _cleaned(config, manifest, positions)
            found = [*url_properties(urls), *code_properties(urls)]
        pixels = _pixels(config, manifest)
        return found if pixels is None else [*found, *pixel_properties(pixels, positions)]

    def sample_relations(
        self, config: ImageClassificationConfig, manifest: Manifest, positions: Sequence[int], progress: Progress
    ) -> list[Relation]:
        """Files that look the same; URLs that differ only in case, numbers or query, and URLs of the same host."""
        from dbbd_cli.data.images.properties import pixel_relations
        from dbbd_cli.data.urls.properties import url_relations

        if not manifest.roots:
            return url_relations(_cleaned(config, manifest, positions))
        pixels = _pixels(config, manifest)
        return [] if pixels is None else pixel_relations(pixels, positions)

    def build(
        self,
        config: ImageClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> ImageWorkload:
        """Prepare the images and build the classifier."""
        from dbbd_cli.tasks.image_classification.workload import ImageWorkload

        return ImageWorkload(
            config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
        )

    def evaluate_corrupted(
        self,
        workload: ImageWorkload,
        split: str,
        *,
        runtime: Runtime,
        calibration: Calibration,
        num_samples: int,
        progress: Progress,
    ) -> dict[str, Any]:
        """Classify images whose pixels were corrupted."""
        from dbbd_cli.tasks.image_classification.corruptions import measure_corruptions

        return measure_corruptions(workload, split, runtime, calibration, num_samples, progress)

    def predict(
        self,
        workload: ImageWorkload,
        inputs: Iterable[Input],
        *,
        runtime: Runtime,
        calibration: Calibration,
        explain: bool,
        progress: Progress,
    ) -> Iterator[Prediction]:
        """Judge pictures: files, and those in folders."""
        if explain:
            raise ConfigError(
                "--explain: a verdict about a picture cannot be explained", hint="leave the option out for this run"
            )
        from dbbd_cli.tasks.image_classification.predict import predict

        return predict(workload, inputs, runtime, calibration, progress)


def _list_images(config: ImageClassificationConfig) -> Source:
    from dbbd_cli.data.images.sources import list_classes, list_folder
    from dbbd_cli.data.urls.sources import list_synthetic, list_urls

    data = config.data
    if data.source == "folder":
        assert data.path is not None
        return list_folder(Path(data.path))
    if data.source == "classes":
        assert data.classes is not None
        return list_classes({name: Path(folder) for name, folder in data.classes.items()})
    if data.source == "urls":
        assert data.path is not None
        return list_urls(Path(data.path), data.url_column, data.label_column)
    return list_synthetic(data.sample_per_class or 5000, config.seed)


def _cleaned(config: ImageClassificationConfig, manifest: Manifest, positions: Sequence[int]) -> list[str]:
    from dbbd_cli.data.urls.cleaning import clean_url

    return [clean_url(manifest.samples[position].key, config.data.urls) for position in positions]


def _paths(manifest: Manifest, positions: Sequence[int]) -> list[str]:
    from dbbd_cli.data.images.sources import file_of

    roots = [Path(root) for root in manifest.roots]
    samples = [manifest.samples[position] for position in positions]
    return [str(file_of(roots, sample.key, sample.label)) for sample in samples]


def _pixels(config: ImageClassificationConfig, manifest: Manifest) -> np.ndarray | None:
    from dbbd_cli.data.cache import cache_folder
    from dbbd_cli.data.images.manifest import prepared_pixels

    return prepared_pixels(manifest, config.image_size, cache_folder(config.data.cache_dir))
