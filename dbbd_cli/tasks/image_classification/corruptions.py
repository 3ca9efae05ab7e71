"""Classify corrupted images."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.images.corruptions import Corrupted, corrupt
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.prediction import Calibration
from dbbd_cli.tasks.corruption_report import CONDITIONS, chosen_samples, corrupted, row
from dbbd_cli.tasks.image_classification.workload import ImageWorkload
from dbbd_cli.tasks.prediction import judged


def measure_corruptions(
    workload: ImageWorkload,
    split: str,
    runtime: Runtime,
    calibration: Calibration,
    num_samples: int,
    progress: Progress,
) -> dict[str, Any]:
    """Corrupt the pixels of images of a split in every way, and classify them.

    `accuracy` is about the most probable class, `verdict` about that at the threshold, as `predict` says it.
    """
    begin = time.perf_counter()
    seed = workload.config.seed
    loader = workload.loaders[split]
    chosen = chosen_samples(loader.num_samples, num_samples, seed)
    network = workload.module.get_submodule("network").eval()
    positive = None if workload.positive_class is None else workload.manifest.classes.index(workload.positive_class)
    right: list[dict[str, list[bool]]] = [defaultdict(list) for _ in CONDITIONS]
    with progress.phase("Classifying corrupted images", len(chosen), unit="images", sample_unit="images") as bar:
        for batch in loader.batches(epoch=0):
            kept = torch.from_numpy(np.isin(batch.samples.numpy(), chosen))
            part = batch._replace(pixels=batch.pixels[kept], labels=batch.labels[kept], samples=batch.samples[kept])
            if not len(part.labels):
                continue
            for condition, hits in zip(CONDITIONS, right, strict=True):
                pixels = torch.stack(
                    [
                        _corrupted(image, corrupted(condition, seed, sample))
                        for image, sample in zip(part.pixels, part.samples.tolist(), strict=True)
                    ]
                )
                images, _ = workload.to_device(part._replace(pixels=pixels), runtime.device, train=False)
                with torch.inference_mode(), runtime.autocast():
                    logits = network(images).float()
                for name, found in zip(("accuracy", "verdict"), judged(logits, positive, calibration), strict=True):
                    if found is not None:
                        hits[name] += (found == part.labels).tolist()
            bar.advance(len(part.labels), samples=len(part.labels))
    rows = [row(condition, **hits) for condition, hits in zip(CONDITIONS, right, strict=True)]
    return {"num_samples": len(chosen), "seconds": time.perf_counter() - begin, "rows": rows}


def _corrupted(image: torch.Tensor, how: Corrupted | None) -> torch.Tensor:
    """An image `(C, S, S)`, uint8, corrupted."""
    if how is None:
        return image
    pixels = image.numpy()
    if len(pixels) == 1:
        return torch.from_numpy(corrupt(pixels[0], how).copy())[None]
    return torch.from_numpy(corrupt(pixels.transpose(1, 2, 0), how).transpose(2, 0, 1).copy())
