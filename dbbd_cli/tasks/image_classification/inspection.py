"""What `inspect` looks at in images."""

from __future__ import annotations

from collections.abc import Sequence

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.images.cache import cached_images
from dbbd_cli.data.images.properties import (
    file_code_properties,
    file_properties,
    pixel_properties,
    pixel_relations,
    rendered_properties,
)
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.properties import Property, Relation
from dbbd_cli.data.urls.properties import url_relations
from dbbd_cli.tasks.classifier_data import cleaned_urls, image_refs
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig


def inspect_images(
    config: ImageClassificationConfig,
    manifest: Manifest,
    positions: Sequence[int],
    progress: Progress,
    *,
    in_short: bool,
) -> tuple[list[Property], list[Relation]]:
    """See `Task.inspect_samples`."""
    all_refs = image_refs(config, manifest, manifest.columns)
    prepared = cached_images(all_refs, config.image_size, cache_folder(config.data.cache_dir), progress)
    pixels = None if prepared is None else prepared.open()
    relations: list[Relation] = []
    if manifest.roots:
        refs = all_refs.at(positions)
        properties = file_properties(refs)
        if not in_short:
            properties += file_code_properties(refs, progress)
            relations += [] if pixels is None else pixel_relations(pixels, positions)
    else:
        urls = cleaned_urls(config, [manifest.samples[position] for position in positions])
        properties = rendered_properties(urls)
        relations += [] if in_short else url_relations(urls)
    properties += [] if pixels is None else pixel_properties(pixels, positions)
    return properties, relations
