"""What the tasks that classify share when they predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from dbbd_cli.core.errors import ConfigError, DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.folder_entries import by_suffix
from dbbd_cli.data.images.formats import suffix_of, ways_to_read
from dbbd_cli.data.images.sources import list_images
from dbbd_cli.model.calibration import calibrated
from dbbd_cli.report.prediction import Calibration, Prediction


def probabilities(logits: torch.Tensor, classes: Sequence[str], calibration: Calibration) -> list[Mapping[str, float]]:
    """Return the calibrated probability of each class, for logits `(B, K)`."""
    shares = torch.softmax(calibrated(logits, calibration.temperature, calibration.bias), dim=1).tolist()
    return [dict(zip(classes, row, strict=True)) for row in shares]


def judged(
    logits: torch.Tensor, positive: int | None, calibration: Calibration
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the most probable class and, with two classes, the verdict of each sample, as `Prediction` has them.

    Args:
        logits: `(B, K)`.
        positive: the positive class of two; None with more.
        calibration: temperature, biases and threshold.

    Returns:
        Two times the number of a class, `(B,)`; None for the verdict if there is no threshold.
    """
    shares = torch.softmax(calibrated(logits.cpu(), calibration.temperature, calibration.bias), dim=1)
    if positive is None:
        return shares.argmax(dim=1), None
    return shares.argmax(dim=1), torch.where(shares[:, positive] >= calibration.threshold, positive, 1 - positive)


def check_threshold(calibration: Calibration, positive_class: str | None) -> None:
    """Raise a `ConfigError` if the threshold was chosen for another class: it says nothing about this one."""
    if calibration.positive_class not in (None, positive_class):
        raise ConfigError(
            f"data.positive_class: it is {positive_class}, but the run's threshold was chosen for "
            f"{calibration.positive_class}",
            hint=f"add --set data.positive_class={calibration.positive_class}, or choose a threshold for "
            f"{positive_class} with dbbd evaluate",
        )


def skipped(name: str, reason: str) -> Prediction:
    """The result of an unreadable input."""
    return Prediction(name, "skipped", note=reason)


def unsupported(name: str) -> Prediction:
    """The result of a picture in a format that cannot be read."""
    ways = "".join(f"; to read it: {way}" for way in ways_to_read([suffix_of(name)]).values())
    return skipped(name, f"is a picture in an unsupported format{ways}")


def pictures_in(folder: Path, progress: Progress) -> Iterator[Path | Prediction]:
    """Yield the pictures of a folder, and a result for everything in it that should be one but is unreadable."""
    try:
        paths, problems, ignored, unread = list_images(folder)
    except DataError as error:
        yield skipped(str(folder), error.message)
        return
    yield from paths
    yield from (skipped(str(folder), problem) for problem in problems)
    if unread:
        ways = "".join(f"; to read {suffix}: {way}" for suffix, way in ways_to_read(unread).items())
        number = counted(sum(unread.values()), "image")
        yield skipped(str(folder), f"{number} in unsupported formats: {by_suffix(unread)}{ways}")
    elif not paths and not problems:
        yield skipped(str(folder), "contains no pictures")
    if ignored:
        progress.line(f"Files in {folder} that are not pictures were ignored: {ignored:,}.")
