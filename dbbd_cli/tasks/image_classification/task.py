"""The task `image_classification`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.classifier import ClassifierTask
from dbbd_cli.tasks.image_classification.config import SAMPLE_UNIT, ImageClassificationConfig

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.prediction import Calibration, Prediction
    from dbbd_cli.runs.output_folder import OutputFolder
    from dbbd_cli.tasks.base import Preparation
    from dbbd_cli.tasks.image_classification.workload import ImageWorkload


class ImageClassification(ClassifierTask):
    """Classification of images, or of URLs rendered as QR codes."""

    name = "image_classification"
    config_class = ImageClassificationConfig
    smoke_config = "smoke_qr"
    sample_unit = SAMPLE_UNIT

    def make_manifest(self, config: ImageClassificationConfig, progress: Progress) -> Manifest:
        """List the images, check them, and divide each class into splits."""
        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.images.manifest import make_manifest
        from dbbd_cli.tasks.classifier_data import list_samples, sampling

        return make_manifest(
            list_samples(config, progress),
            cleaning=config.data.urls,
            sampling=sampling(config),
            image_size=config.image_size,
            cache_dir=cache_folder(config.data.cache_dir),
            progress=progress,
        )

    def prepare(self, config: ImageClassificationConfig, num_workers: int, progress: Progress) -> Preparation | None:
        """Download, index and decode the images, in as many processes as training would."""
        import time

        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.images.cache import cached_images
        from dbbd_cli.tasks.base import Preparation
        from dbbd_cli.tasks.classifier_data import image_refs

        if config.is_synthetic:
            return None
        begin = time.time_ns()
        data = config.data.model_copy(update={"on_error": "skip"})
        manifest = self.make_manifest(config.model_copy(update={"data": data}), progress)
        refs = image_refs(config, manifest, manifest.columns)
        images = cached_images(refs, config.image_size, cache_folder(data.cache_dir), progress)
        count = len(manifest.samples)
        is_new = images is None or (images.written_ns() or begin) >= begin
        return Preparation(count if is_new else 0, 0 if is_new else count, list(manifest.skipped))

    def inspect_samples(
        self,
        config: ImageClassificationConfig,
        manifest: Manifest,
        positions: Sequence[int],
        progress: Progress,
        *,
        in_short: bool,
    ) -> tuple[list[Property], list[Relation]]:
        """Properties of files, or of URLs, and of pixels; files that look the same, and URLs that are similar."""
        from dbbd_cli.tasks.image_classification.inspection import inspect_images

        return inspect_images(config, manifest, positions, progress, in_short=in_short)

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
        out: OutputFolder,
        progress: Progress,
    ) -> Iterator[Prediction]:
        """Judge pictures: files, and those in folders."""
        if explain:
            raise ConfigError(
                "--explain: a verdict about a picture cannot be explained", hint="leave the option out for this run"
            )
        from dbbd_cli.tasks.image_classification.predict import predict
        from dbbd_cli.tasks.prediction import check_threshold

        check_threshold(calibration, workload.positive_class)
        return predict(workload, inputs, runtime, calibration, progress)
