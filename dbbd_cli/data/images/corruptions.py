"""Corrupt pictures as photographs are: to measure what a reader of codes, or a classifier, can stand.

A corruption keeps the size of the picture. Its random choices depend on (seed, sample, corruption, strength) alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from scipy.special import ndtri

from dbbd_cli.data.random_numbers import CORRUPTION, uniform

_WHITE, _GRAY = 255, 128


class Corrupted(NamedTuple):
    """How to corrupt a picture."""

    name: str
    """One of `CORRUPTIONS`."""
    strength: float
    """In the unit of the corruption."""
    seed: int
    sample: int
    """Index of the picture."""

    def draws(self, count: int) -> np.ndarray:
        """Return random numbers in [0, 1), shape `(count,)`, float64: others for each corruption and strength."""
        stream = 100_000 * list(CORRUPTIONS).index(self.name) + round(100 * self.strength)
        return uniform(self.seed, stream, np.array([self.sample]), count, purpose=CORRUPTION)[0]


class Corruption(NamedTuple):
    """A kind of corruption."""

    apply: Callable[[Image.Image, Corrupted], Image.Image]
    unit: str
    strengths: tuple[float, ...]
    """The strengths that are measured, ascending in harm."""


def corrupt(pixels: np.ndarray, how: Corrupted) -> np.ndarray:
    """Return a corrupted copy of a picture.

    Args:
        pixels: `(H, W)` or `(H, W, 3)`, uint8.
        how: the corruption.

    Returns:
        Array of the same shape and type.
    """
    return np.asarray(CORRUPTIONS[how.name].apply(Image.fromarray(pixels), how))


def _rotate(image: Image.Image, how: Corrupted) -> Image.Image:
    angle = how.strength if how.draws(1)[0] < 0.5 else -how.strength
    turned = image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=_fill(image, _WHITE))
    return turned.resize(image.size, Image.Resampling.BILINEAR)


def _perspective(image: Image.Image, how: Corrupted) -> Image.Image:
    width, height = image.size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    inward = np.sign(np.array([width, height]) / 2 - corners)
    moved = corners + inward * (how.strength / 100) * how.draws(8).reshape(4, 2) * np.array([width, height])
    # PIL wants the map from places in the result to places in the original: x = (a u + b v + c) / (g u + h v + 1).
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
        values += [x, y]
    coefficients = tuple(np.linalg.solve(np.array(rows), np.array(values)).tolist())
    return image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=_fill(image, _WHITE),
    )


def _blur(image: Image.Image, how: Corrupted) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(how.strength / 100 * min(image.size)))


def _noise(image: Image.Image, how: Corrupted) -> Image.Image:
    pixels = np.asarray(image)
    normal = ndtri(np.clip(how.draws(pixels.size), 1e-9, 1 - 1e-9)).reshape(pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + how.strength * normal), 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, how: Corrupted) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(how.strength))
    with Image.open(file, formats=["JPEG"]) as compressed:
        return compressed.convert(image.mode)


def _low_contrast(image: Image.Image, how: Corrupted) -> Image.Image:
    values = _GRAY + (np.asarray(image).astype(np.float64) - _GRAY) * how.strength / 100
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _cover(image: Image.Image, how: Corrupted) -> Image.Image:
    width, height = image.size
    side = max(1, round(how.strength / 100 * min(width, height)))
    left, top = (int(draw * (length - side + 1)) for draw, length in zip(how.draws(2), image.size, strict=True))
    covered = image.copy()
    covered.paste(_fill(image, _GRAY), (left, top, left + side, top + side))
    return covered


def _fill(image: Image.Image, gray: int) -> int | tuple[int, int, int]:
    return gray if image.mode == "L" else (gray, gray, gray)


CORRUPTIONS: dict[str, Corruption] = {
    # Angle, either way.
    "rotation": Corruption(_rotate, "°", (10, 20, 30, 45)),
    # How far each corner moves inward at most, of width and height.
    "perspective": Corruption(_perspective, "%", (10, 20, 30, 40)),
    # Standard deviation, of the shorter side.
    "blur": Corruption(_blur, "%", (0.25, 0.5, 1, 1.5)),
    # Standard deviation, in gray values from 0 to 255.
    "noise": Corruption(_noise, "", (20, 40, 60, 80)),
    # Quality of the compression.
    "JPEG": Corruption(_jpeg, "", (50, 20, 10, 5)),
    # Contrast that is left.
    "low contrast": Corruption(_low_contrast, "%", (50, 25, 10, 5)),
    # Side of a gray square at a random place, of the shorter side.
    "cover": Corruption(_cover, "%", (10, 20, 30, 40)),
}
