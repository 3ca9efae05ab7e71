"""Read the codes of corrupted pictures, and judge what was read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.images.codes import CodesRead, read_all_codes
from dbbd_cli.data.images.qr_reader import Picture
from dbbd_cli.data.images.sources import file_of
from dbbd_cli.data.images.url_pictures import url_of
from dbbd_cli.data.manifest import Sample
from dbbd_cli.data.problems import shortened
from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.data.urls.encoding import encode_urls
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.prediction import Calibration
from dbbd_cli.tasks.classifier_data import class_folders
from dbbd_cli.tasks.corruption_report import CONDITIONS, chosen_samples, corrupted, row
from dbbd_cli.tasks.prediction import judged
from dbbd_cli.tasks.url_classification.workload import UrlWorkload


def measure_corruptions(
    workload: UrlWorkload, split: str, runtime: Runtime, calibration: Calibration, num_samples: int, progress: Progress
) -> dict[str, Any]:
    """Corrupt pictures of a split in every way, read their codes, and classify the URLs that were read.

    URLs that were not pictures are rendered as QR codes first. `accuracy` is about the most probable class, `verdict`
    about that at the threshold, as `predict` says it. Both are wrong for a picture that was not read.

    Raises:
        DataError: pictures are missing.
    """
    begin = time.perf_counter()
    seed, samples = workload.config.seed, workload.manifest.of(split)
    chosen = chosen_samples(len(samples), num_samples, seed)
    used = [samples[index] for index in chosen]
    plain = _pictures(workload, used)
    pictures = [
        picture._replace(corruption=corrupted(condition, seed, int(index)))
        for condition in CONDITIONS
        for picture, index in zip(plain, chosen, strict=True)
    ]
    codes = [CodesRead(())] * len(pictures)
    with progress.phase("Reading corrupted codes", len(pictures), unit="pictures", sample_unit="pictures") as bar:
        for position, found in read_all_codes(pictures):
            codes[position] = found
            bar.advance(samples=1)
    urls = [url_of(found)[0] for found in codes]
    classes, verdicts = _classify(workload, set(urls) - {""}, runtime, calibration)
    rows = []
    for place, condition in enumerate(CONDITIONS):
        part = slice(place * len(used), (place + 1) * len(used))
        rows.append(
            row(
                condition,
                read=[bool(found.texts) for found in codes[part]],
                read_right=[url == (sample.text or sample.key) for url, sample in zip(urls[part], used, strict=True)],
                **{
                    name: [found.get(url) == sample.label for url, sample in zip(urls[part], used, strict=True)]
                    for name, found in (("accuracy", classes), ("verdict", verdicts))
                    if found is not None
                },
            )
        )
    return {"num_samples": len(used), "seconds": time.perf_counter() - begin, "rows": rows}


def _pictures(workload: UrlWorkload, samples: Sequence[Sample]) -> list[Picture]:
    roots = class_folders(workload.config.data, workload.manifest)
    if not roots:
        return [Picture(url=sample.key) for sample in samples]
    paths = [str(file_of(roots, sample.key, sample.label)) for sample in samples]
    if missing := [path for path in paths if not os.path.isfile(path)]:  # noqa: PTH113 - a Path object per file is slow
        raise DataError(
            f"{counted(len(missing), 'picture')} of the run's manifest cannot be found",
            details=shortened(missing),
            hint="restore them; if they have moved, set the new path with --set data.path=PATH "
            "(or data.classes.NAME=DIR for each class)",
        )
    return [Picture(path) for path in paths]


def _classify(
    workload: UrlWorkload, urls: Iterable[str], runtime: Runtime, calibration: Calibration
) -> tuple[dict[str, int], dict[str, int] | None]:
    """The most probable class of each URL and, with two classes, the verdict."""
    ordered = sorted(urls)
    network = workload.module.get_submodule("network").eval()
    positive = None if workload.positive_class is None else workload.manifest.classes.index(workload.positive_class)
    classes: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    for first in range(0, len(ordered), workload.config.training.batch_size):
        batch = ordered[first : first + workload.config.training.batch_size]
        encoded = torch.tensor(encode_urls([clean_url(url, workload.config.data.urls) for url in batch]))
        with torch.inference_mode(), runtime.autocast():
            logits = network(encoded.to(runtime.device)).float()
        predicted, verdict = judged(logits, positive, calibration)
        classes.update(zip(batch, predicted.tolist(), strict=True))
        if verdict is not None:
            verdicts.update(zip(batch, verdict.tolist(), strict=True))
    return classes, None if positive is None else verdicts
