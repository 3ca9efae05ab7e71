"""Point clouds that the HTML report turns in 3D: N points, and layers of colors to choose from."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.report.palette import UNKNOWN, class_color, rgb
from dbbd_cli.report.scenes.view import cut_height
from dbbd_cli.report.text import number, visible

if TYPE_CHECKING:
    from numpy import ndarray

_MAX_POINTS = 50_000
_MAX_NAMES = 40
_RIGHT, _WRONG = "#b9cfe4", "#d55e00"
_HEIGHTS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""The colors of heights, from low to high: Viridis."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A way to color the points.

    Attributes:
        name: its title.
        color: `(N, 3)` uint8.
        legend: names and their colors, or texts without a color.
    """

    name: str
    color: ndarray
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points to turn in 3D.

    Attributes:
        label: what they are, for those who cannot see them.
        coord: `(N, 3)`, z up, finite.
        layers: at least one.
    """

    label: str
    coord: ndarray
    layers: Sequence[Layer]


def scene_cloud(scene: Mapping[str, ndarray], label: str, classes: Sequence[str]) -> PointCloud:
    """The layers of a scene: labels, predictions and errors as far as it has them, features and height.

    Args:
        scene: see `read_evaluation_scene`.
        label: what it is.
        classes: names of the classes.
    """
    segment, prediction = scene.get("segment"), scene.get("prediction")
    layers = []
    if segment is not None:
        layers.append(_classes("Labels", segment, classes))
    if prediction is not None:
        layers.append(_classes("Prediction", prediction, classes))
    if segment is not None and prediction is not None:
        layers.append(_errors(segment, prediction))
    layers.append(Layer("Features", scene["color"], [("first three principal components as red, green and blue", "")]))
    layers.append(_heights(scene["coord"][:, 2]))
    return PointCloud(label, scene["coord"], layers)


def _classes(name: str, segment: ndarray, classes: Sequence[str]) -> Layer:
    import numpy as np

    index, places, counts = np.unique(segment, return_inverse=True, return_counts=True)
    colors = [class_color(place) for place in index.tolist()]
    most = sorted(np.argsort(-counts, kind="stable")[:_MAX_NAMES].tolist())
    names = ["unlabeled" if i < 0 else classes[i] if i < len(classes) else f"class {i}" for i in index.tolist()]
    legend = [(visible(names[place], 24), colors[place]) for place in most if index[place] >= 0]
    legend += [("unlabeled", UNKNOWN)] if index[0] < 0 else []
    return Layer(name, _bytes(rgb(colors))[places], legend)


def _errors(segment: ndarray, prediction: ndarray) -> Layer:
    import numpy as np

    kinds = np.where(segment < 0, 2, np.where(segment == prediction, 0, 1))
    known = int((kinds < 2).sum())
    wrong = f"wrong: {(kinds == 1).sum() / known:.1%} of the labeled points" if known else "wrong"
    legend = [("right", _RIGHT), (wrong, _WRONG), ("unlabeled", UNKNOWN)]
    return Layer("Error", _bytes(rgb([_RIGHT, _WRONG, UNKNOWN]))[kinds], legend)


def _heights(height: ndarray) -> Layer:
    import numpy as np

    low, high = np.percentile(height, [0.5, 99.5])
    share = np.clip((height - low) / max(high - low, 1e-9), 0, 1) * (len(_HEIGHTS) - 1)
    stops = rgb(_HEIGHTS)
    color = np.stack([np.interp(share, range(len(stops)), channel) for channel in stops.T], axis=1)
    return Layer("Height", _bytes(color), [(number(low, 1), _HEIGHTS[0]), (number(high, 1), _HEIGHTS[-1])])


def _bytes(color: ndarray) -> ndarray:
    import numpy as np

    rounded: ndarray = np.rint(color * 255).astype(np.uint8)
    return rounded


def viewer_data(cloud: PointCloud) -> str:
    """The points as JSON for the script of the page, of at most 50,000 points, safe inside of HTML."""
    import numpy as np

    coord = cloud.coord.astype(np.float64)
    chosen = np.sort(np.random.default_rng(0).permutation(len(coord))[:_MAX_POINTS])
    # A point far outside would make all others a dot: it is drawn at the edge.
    low, high = np.percentile(coord, [0.05, 99.95], axis=0)
    size = np.maximum(high - low, 1e-6 * max(float((high - low).max()), 1e-9))
    place = np.rint(np.clip((coord[chosen] - low) / size, 0, 1) * 65535).astype("<u2")
    top = cut_height(coord[:, 2])
    values: dict[str, Any] = {
        "label": visible(cloud.label, 200),
        "count": len(chosen),
        "size": (size / size.max()).round(6).tolist(),
        "place": _base64(place),
        "cut": 1 if top is None else round(float(np.clip((top - low[2]) / size[2], 0.05, 1)), 2),
        "layers": [
            {
                "name": layer.name,
                "color": _base64(layer.color[chosen]),
                "legend": layer.legend,
            }
            for layer in cloud.layers
        ],
    }
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _base64(array: ndarray) -> str:
    """Rows of three numbers with a fourth that is not used: WebGL reads rows of 4 or 8 bytes fastest."""
    import numpy as np

    return base64.b64encode(np.pad(array, ((0, 0), (0, 1))).tobytes()).decode("ascii")


@cache
def viewer_script() -> tuple[str, str]:
    """The script of the page, and its source for the content security policy."""
    script = Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")
    return script, f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
