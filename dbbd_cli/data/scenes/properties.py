"""Properties of scenes, and which scenes have the same points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dbbd_cli.data.properties import Property, Relation, categories, numbers
from dbbd_cli.data.scenes.cache import SceneRef, read_source
from dbbd_cli.data.scenes.reader import Sampling

_ONE_SURVEY = "record or resample the scenes of all splits in the same way"
_SAME = 1e-3
"""Relative difference of shapes below which two clouds of equally many points are the same."""


class SceneFacts(NamedTuple):
    """What is compared of a scene.

    Attributes:
        num_points: number of points.
        extent: longest side of its bounding box, in its own unit.
        suffix: of its file; "folder" or "synthetic" for a scene without a file.
        has_color, has_normals, has_labels: whether the source has them for its points.
        shape: `(9,)`, numbers that depend neither on the order nor on the unit of the points.
    """

    num_points: int
    extent: float
    suffix: str
    has_color: bool
    has_normals: bool
    has_labels: bool
    shape: np.ndarray


def scene_facts(ref: SceneRef, sampling: Sampling) -> SceneFacts:
    """Read a scene and measure it.

    Args:
        ref: the scene.
        sampling: which of its points to read.

    Raises:
        DataError: the file cannot be read, or is not a scene.
    """
    scene = read_source(ref, sampling)
    suffix = "synthetic" if not isinstance(ref.source, Path) else ref.source.suffix.lower() or "folder"
    coord = scene.coord.astype(np.float64)
    centered = coord - coord.mean(axis=0)
    extent = float(np.ptp(coord, axis=0).max())
    size = float(np.sqrt((centered**2).sum(axis=1).mean())) or 1.0
    scaled = centered / size
    shape = np.concatenate([(scaled**2).mean(axis=0), (scaled**3).mean(axis=0), np.abs(scaled).max(axis=0)])
    has = (scene.color is not None, scene.normal is not None, scene.segment is not None)
    return SceneFacts(scene.num_points, extent, suffix, *has, shape)


def scene_properties(facts: Sequence[SceneFacts]) -> list[Property]:
    """Number of points, extent, suffix, and which parts the sources have."""
    return [
        numbers("number of points", [scene.num_points for scene in facts], _ONE_SURVEY),
        numbers("extent", [scene.extent for scene in facts], _ONE_SURVEY),
        categories("suffix", [scene.suffix for scene in facts], _ONE_SURVEY),
        categories("colors", [_yes(scene.has_color) for scene in facts], _ONE_SURVEY),
        categories("normals", [_yes(scene.has_normals) for scene in facts], _ONE_SURVEY),
        categories("labels", [_yes(scene.has_labels) for scene in facts], _ONE_SURVEY),
    ]


def scene_relations(facts: Sequence[SceneFacts]) -> list[Relation]:
    """Scenes with the same points in another order, place or unit."""
    firsts: dict[int, list[int]] = {}
    keys = []
    for position, scene in enumerate(facts):
        others = firsts.setdefault(scene.num_points, [])
        same = (first for first in others if np.allclose(facts[first].shape, scene.shape, rtol=_SAME, atol=_SAME))
        key = next(same, position)
        if key == position:
            others.append(position)
        keys.append(key)
    return [Relation("the same points in another order or unit", keys, "remove all but one of them")]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
