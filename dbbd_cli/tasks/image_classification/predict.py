"""Judge pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.images.dataset import ImageBatch
from dbbd_cli.data.images.formats import begins_like_image, is_image_name, is_unread_name
from dbbd_cli.data.images.processes import prepare_in_workers
from dbbd_cli.data.images.refs import ImageRef, hash_files
from dbbd_cli.data.inputs import Input
from dbbd_cli.data.problems import why
from dbbd_cli.data.urls.cleaning import split_url
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.report.prediction import Calibration, Prediction
from dbbd_cli.tasks.image_classification.workload import ImageWorkload
from dbbd_cli.tasks.prediction import pictures_in, probabilities, skipped, unsupported

_PICTURES_AT_ONCE = 256
"""Pictures that are decoded by one set of worker processes, which take half a second to start."""
_PICTURES_PER_JOB = 16


def predict(
    workload: ImageWorkload, inputs: Iterable[Input], runtime: Runtime, calibration: Calibration, progress: Progress
) -> Iterator[Prediction]:
    """Judge pictures in batches; the results are in order."""
    found = (item for one in inputs for item in _items(one, progress))
    while batch := list(islice(found, _PICTURES_AT_ONCE)):
        paths = [item for item in batch if isinstance(item, Path)]
        judged = iter(_judge(workload, paths, runtime, calibration))
        yield from (next(judged) if isinstance(item, Path) else item for item in batch)


def _items(given: Input, progress: Progress) -> Iterator[Path | Prediction]:
    if given.problem:
        yield skipped(given.name, given.problem)
    elif given.path is None:
        is_url = bool(split_url(given.name).scheme)
        what = "is a URL, and URLs are never fetched" if is_url else "there is no such file or folder"
        yield skipped(given.name, f"{what}; this run judges pictures")
    elif given.path.is_dir():
        yield from pictures_in(given.path, progress)
    elif is_image_name(given.path.name) or begins_like_image(str(given.path)):
        yield given.path
    elif is_unread_name(given.path.name):
        yield unsupported(given.name)
    else:
        yield skipped(given.name, "is not a picture; this run judges pictures")


def _judge(
    workload: ImageWorkload, paths: list[Path], runtime: Runtime, calibration: Calibration
) -> Iterator[Prediction]:
    """The result of each picture. They are decoded as for training: in other processes, with limits."""
    problems: dict[int, str] = {}
    refs: dict[int, ImageRef] = {}
    for place, digest in enumerate(hash_files([str(path) for path in paths], Silent())):
        if isinstance(digest, OSError):
            problems[place] = f"cannot be read: {why(digest)}"
        else:
            refs[place] = ImageRef(digest, path=str(paths[place].absolute()))
    shares = _probabilities(workload, refs, problems, runtime, calibration)
    positive = workload.positive_class
    for place, path in enumerate(paths):
        if place in problems:
            yield skipped(str(path), problems[place])
        else:
            yield Prediction(
                str(path),
                "judged",
                probabilities=shares[place],
                positive_class=positive,
                threshold=None if positive is None else calibration.threshold,
                calibrated=calibration.fitted,
            )


def _probabilities(
    workload: ImageWorkload,
    refs: dict[int, ImageRef],
    problems: dict[int, str],
    runtime: Runtime,
    calibration: Calibration,
) -> dict[int, dict[str, float]]:
    """Decode pictures, put the reasons for those that cannot be decoded into `problems`, and judge the others."""
    if not refs:
        return {}
    size = workload.config.image_size
    shape = (len(refs), 3, size, size)
    places, all_refs = list(refs), list(refs.values())
    with tempfile.TemporaryDirectory(prefix="dbbd-predict-") as folder:
        file = Path(folder) / "pixels"
        np.memmap(file, dtype=np.uint8, mode="w+", shape=shape).flush()
        jobs = [
            (start, all_refs[start : start + _PICTURES_PER_JOB]) for start in range(0, len(refs), _PICTURES_PER_JOB)
        ]
        for _, bad in prepare_in_workers(file, shape, jobs):
            problems.update({places[row]: problem.reason for row, problem in bad.items()})
        pixels = np.fromfile(file, dtype=np.uint8).reshape(shape)
    good = [row for row, place in enumerate(places) if place not in problems]
    result: dict[int, dict[str, float]] = {}
    step = workload.config.training.batch_size
    for start in range(0, len(good), step):
        rows = good[start : start + step]
        logits = _logits(workload, torch.from_numpy(pixels[rows]), runtime)
        found = probabilities(logits, workload.manifest.classes, calibration)
        result |= {places[row]: dict(share) for row, share in zip(rows, found, strict=True)}
    return result


def _logits(workload: ImageWorkload, pixels: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """Logits `(B, K)` of pictures `(B, 3, S, S)`, uint8, on the CPU."""
    unlabeled = torch.zeros(len(pixels), dtype=torch.long)
    batch = ImageBatch(pixels, labels=unlabeled, samples=torch.arange(len(pixels)), epoch=torch.tensor(0))
    with torch.inference_mode(), runtime.autocast():
        images, _ = workload.to_device(batch, runtime.device, train=False)
        return workload.module.network(images).float().cpu()
