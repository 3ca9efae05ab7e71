"""The task `url_classification`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.classifier import ClassifierTask
from dbbd_cli.tasks.url_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, UrlClassificationConfig

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.candidates import Source
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.prediction import Calibration, Prediction
    from dbbd_cli.tasks.url_classification.workload import UrlWorkload


class UrlClassification(ClassifierTask):
    """Classification of URLs by their text."""

    name = "url_classification"
    config_class = UrlClassificationConfig
    smoke_config = "smoke_url"
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS

    def make_manifest(self, config: UrlClassificationConfig, progress: Progress) -> Manifest:
        """List the URLs or pictures of their codes, which are read, and divide each class into splits."""
        from dbbd_cli.data.urls.manifest import make_manifest

        data = config.data
        return make_manifest(
            _list_urls(config),
            cleaning=data.urls,
            sample_per_class=data.sample_per_class,
            report_limit="sample_per_class" in data.model_fields_set,
            shares=(data.split.train, data.split.val, data.split.test),
            group_by_host=data.split.group == "host",
            on_error=data.on_error,
            seed=config.seed,
            progress=progress,
        )

    def sample_properties(
        self, config: UrlClassificationConfig, manifest: Manifest, positions: Sequence[int], progress: Progress
    ) -> list[Property]:
        """Scheme, length, top-level domain and the like of the cleaned URLs."""
        from dbbd_cli.data.urls.properties import url_properties

        return url_properties(_cleaned(config, manifest, positions))

    def sample_relations(
        self, config: UrlClassificationConfig, manifest: Manifest, positions: Sequence[int], progress: Progress
    ) -> list[Relation]:
        """URLs that differ only in case, numbers or query, and URLs of the same host."""
        from dbbd_cli.data.urls.properties import url_relations

        return url_relations(_cleaned(config, manifest, positions))

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
        progress: Progress,
    ) -> Iterator[Prediction]:
        """Judge URLs: texts, those in a table, and those that the codes in pictures hold."""
        from dbbd_cli.tasks.url_classification.predict import UrlPredictor

        return UrlPredictor(workload, runtime, calibration, explain, progress).predict(inputs)


def _list_urls(config: UrlClassificationConfig) -> Source:
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


def _cleaned(config: UrlClassificationConfig, manifest: Manifest, positions: Sequence[int]) -> list[str]:
    from dbbd_cli.data.urls.cleaning import clean_url

    return [
        clean_url(manifest.samples[position].text or manifest.samples[position].key, config.data.urls)
        for position in positions
    ]
