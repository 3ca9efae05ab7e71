"""The samples of a classifier: where its configuration says they are, and how they are divided."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.paths import is_url
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.candidates import Sampling, Source
from dbbd_cli.data.images.manifest import refs_of
from dbbd_cli.data.images.refs import ImageRefs
from dbbd_cli.data.images.shard_index import Keys
from dbbd_cli.data.images.shards import Shards, list_shards
from dbbd_cli.data.images.sources import list_classes, list_folder
from dbbd_cli.data.images.table import list_table
from dbbd_cli.data.manifest import Manifest, Sample, Samples
from dbbd_cli.data.remote import local_copy
from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.data.urls.sources import list_synthetic, list_urls
from dbbd_cli.tasks.classifier_config import ClassifierConfig, ClassifierDataConfig

_MAX_NAMED = 8
"""Classes that a message names."""


def list_samples(config: ClassifierConfig, progress: Progress) -> Source:
    """List the pictures or URLs of each class."""
    data = config.data
    if (shards := shards_of(data)) is not None:
        return list_shards(shards, progress)
    if data.source == "folder":
        assert data.path is not None
        return list_folder(Path(data.path))
    if data.source == "classes":
        assert data.classes is not None
        return list_classes({name: Path(folder) for name, folder in data.classes.items()})
    if data.source == "table":
        assert data.path is not None
        return list_table(
            Path(data.path),
            data.path_column,
            data.label_column,
            data.split_column,
            needs_splits="split_column" in data.model_fields_set,
        )
    if data.source == "urls":
        assert data.path is not None
        remote = is_url(data.path)
        path = local_copy(data.path, cache_folder(data.cache_dir), progress) if remote else Path(data.path)
        return list_urls(path, data.url_column, data.label_column)
    return list_synthetic(data.sample_per_class or 5000, config.seed)


def shards_of(data: ClassifierDataConfig) -> Shards | None:
    """The tar files that the samples are in; None if they are not in any."""
    if data.source != "shards":
        return None
    assert data.path is not None
    return Shards(data.path, Keys(data.label_column, data.split_column), cache_folder(data.cache_dir))


def image_refs(config: ClassifierConfig, manifest: Manifest, samples: Samples) -> ImageRefs:
    """The images of samples of a manifest, according to the configuration; they may have moved, or be gone.

    Raises:
        ConfigError: the classes of the configuration are not those of the manifest.
    """
    shards = shards_of(config.data)
    located = None if shards is None else shards.locate_here(samples.keys, Silent())
    return refs_of(samples, class_folders(config.data, manifest), config.data.urls, located)


def sampling(config: ClassifierConfig) -> Sampling:
    """How samples are drawn and divided."""
    data = config.data
    return Sampling(
        per_class=data.sample_per_class,
        report_limit="sample_per_class" in data.model_fields_set,
        shares=(data.split.train, data.split.val, data.split.test),
        group_by_host=data.split.group == "host",
        on_error=data.on_error,
        seed=config.seed,
    )


def cleaned_urls(config: ClassifierConfig, samples: Iterable[Sample]) -> list[str]:
    """The URLs of samples, as the network gets them."""
    return [clean_url(sample.text or sample.key, config.data.urls) for sample in samples]


def class_folders(data: ClassifierDataConfig, manifest: Manifest) -> list[Path]:
    """Return the folders of a manifest's classes according to the configuration; they may have moved.

    Returns:
        The folders in the order of the classes; none if the samples are URLs or in shards.

    Raises:
        ConfigError: the classes of the configuration are not those of the manifest.
    """
    if data.source == "folder" and data.path is not None:
        return [Path(data.path) / name for name in manifest.classes]
    if data.source == "table" and data.path is not None:
        return [Path(data.path).parent] * len(manifest.classes)
    if data.source == "classes" and data.classes is not None:
        if set(data.classes) != set(manifest.classes):
            raise ConfigError(
                f"data.classes: the run has the classes {named(manifest.classes)}",
                hint="set a folder for each of these classes and no others",
            )
        return [Path(data.classes[name]) for name in manifest.classes]
    return []


def named(classes: tuple[str, ...]) -> str:
    """The names of the first classes, for a message."""
    return ", ".join(classes[:_MAX_NAMED]) + (", …" if len(classes) > _MAX_NAMED else "")
