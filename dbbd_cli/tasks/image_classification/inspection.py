"""What `inspect` looks at in images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.images.manifest import prepared_pixels
from dbbd_cli.data.images.properties import (
    file_code_properties,
    file_properties,
    pixel_properties,
    pixel_relations,
    rendered_properties,
)
from dbbd_cli.data.images.sources import files_of
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.properties import Property, Relation
from dbbd_cli.data.urls.properties import url_relations
from dbbd_cli.tasks.classifier_data import cleaned_urls
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
    samples = [manifest.samples[position] for position in positions]
    pixels = prepared_pixels(manifest, config.image_size, cache_folder(config.data.cache_dir), progress)
    relations: list[Relation] = []
    if manifest.roots:
        roots = [Path(root) for root in manifest.roots]
        paths = files_of(roots, [sample.key for sample in samples], [sample.label for sample in samples])
        properties = file_properties(paths)
        if not in_short:
            properties += file_code_properties(paths, progress)
            relations += [] if pixels is None else pixel_relations(pixels, positions)
    else:
        urls = cleaned_urls(config, samples)
        properties = rendered_properties(urls)
        relations += [] if in_short else url_relations(urls)
    properties += [] if pixels is None else pixel_properties(pixels, positions)
    return properties, relations
