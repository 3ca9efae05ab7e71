"""The task `url_classification`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.classifier import ClassifierTask
from dbbd_cli.tasks.url_classification.config import SAMPLE_UNIT, UrlClassificationConfig

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.prediction import Calibration, Prediction
    from dbbd_cli.runs.output_folder import OutputFolder
    from dbbd_cli.tasks.url_classification.workload import UrlWorkload


class UrlClassification(ClassifierTask):
    """Classification of URLs by their text."""

    name = "url_classification"
    config_class = UrlClassificationConfig
    smoke_config = "smoke_url"
    sample_unit = SAMPLE_UNIT

    def make_manifest(self, config: UrlClassificationConfig, progress: Progress) -> Manifest:
        """List the URLs or pictures of their codes, which are read, and divide each class into splits."""
        from dbbd_cli.data.urls.manifest import make_manifest
        from dbbd_cli.tasks.classifier_data import list_samples, sampling

        return make_manifest(
            list_samples(config, progress), cleaning=config.data.urls, sampling=sampling(config), progress=progress
        )

    def inspect_samples(
        self,
        config: UrlClassificationConfig,
        manifest: Manifest,
        positions: Sequence[int],
        progress: Progress,
        *,
        in_short: bool,
    ) -> tuple[list[Property], list[Relation]]:
        """Scheme, length, top-level domain and the like of cleaned URLs; URLs that are similar or of the same host."""
        from dbbd_cli.data.urls.properties import url_properties, url_relations
        from dbbd_cli.tasks.classifier_data import cleaned_urls

        urls = cleaned_urls(config, [manifest.samples[position] for position in positions])
        return url_properties(urls), [] if in_short else url_relations(urls)

    def build(
        self,
        config: UrlClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> UrlWorkload:
        """Encode the URLs and build the classifier."""
        from dbbd_cli.tasks.url_classification.workload import UrlWorkload

        return UrlWorkload(config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory)

    def evaluate_corrupted(
        self,
        workload: UrlWorkload,
        split: str,
        *,
        runtime: Runtime,
        calibration: Calibration,
        num_samples: int,
        progress: Progress,
    ) -> dict[str, Any]:
        """Read corrupted codes and classify what was read; URLs that were not pictures are rendered first."""
        from dbbd_cli.tasks.url_classification.corruptions import measure_corruptions

        return measure_corruptions(workload, split, runtime, calibration, num_samples, progress)

    def predict(
        self,
        workload: UrlWorkload,
        inputs: Iterable[Input],
        *,
        runtime: Runtime,
        calibration: Calibration,
        explain: bool,
        out: OutputFolder,
        progress: Progress,
    ) -> Iterator[Prediction]:
        """Judge URLs: texts, those in a table, and those that the codes in pictures hold."""
        from dbbd_cli.tasks.prediction import check_threshold
        from dbbd_cli.tasks.url_classification.predict import UrlPredictor

        check_threshold(calibration, workload.positive_class)
        return UrlPredictor(workload, runtime, calibration, explain, progress).predict(inputs)
