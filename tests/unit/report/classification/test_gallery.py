"""The pictures of errors survive their file, a damaged file is an error, and the gallery names classes as they are."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.report.classification.figures import classification_figures
from dbbd_cli.report.classification.gallery import MAX_PICTURES, pictures_file, read_pictures
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.save import render
from dbbd_cli.report.style import MUTED, SERIES, WARNING

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
PICTURES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)


def saved(array: np.ndarray, **keywords: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, **keywords)
    return file.getvalue()


def test_pictures_are_read_as_they_were_written() -> None:
    assert np.array_equal(read_pictures(pictures_file(PICTURES)), PICTURES)
    transposed = PICTURES.transpose(0, 2, 1, 3)
    assert np.array_equal(read_pictures(pictures_file(transposed)), transposed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        pictures_file(PICTURES)[:-1],
        pictures_file(PICTURES) + b"0",
        saved(PICTURES.astype(np.float32)),
        saved(PICTURES[0]),
        saved(PICTURES[..., :2]),
        saved(np.zeros((MAX_PICTURES + 1, 2, 2, 1), np.uint8)),
        saved(np.zeros((0, 2, 2, 1), np.uint8)),
        saved(np.array([print, None], dtype=object), allow_pickle=True),
        saved(PICTURES).replace(b"(2, 8, 8, 3)", b"(2, 9**9**9)"),
    ],
)
def test_a_damaged_file_is_an_error(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"errors\.npy is damaged"):
        read_pictures(content)


def test_the_gallery_names_classes_and_samples(evaluation_of: Callable[..., Any]) -> None:
    from matplotlib.text import Text

    errors = [
        {"sample": "a/$x_1$.png", "class": "_b$n$", "predicted": "malicious", "probability": 0.9},
        {"sample": "\u202eb.png", "class": "malicious", "predicted": "_b$n$", "probability": 0.8},
        {"sample": "not drawn.png", "class": "malicious", "predicted": "_b$n$", "probability": 0.7},
    ]
    figure = draw(classification_figures({**evaluation_of(), "errors": errors}, PICTURES))["errors"]
    texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    assert {"_b$n$ → malicious\n90.0%", "a/$x_1$.png", "\\u202eb.png", "synthetic data"} <= set(texts)
    assert "not drawn.png" not in texts
    assert render(figure, "png")
    assert "errors" not in classification_figures({**evaluation_of(), "errors": errors})


def test_baselines_and_the_network_are_drawn_with_intervals(evaluation_of: Callable[..., Any]) -> None:
    rows = [
        {"name": "rule: x", "accuracy": 1.0, "accuracy_interval": [0.9, 1.0], "is_shortcut": True},
        {"name": "n-grams", "accuracy": 0.6},
    ]
    evaluation = {**evaluation_of(), "baselines": rows, "intervals": {"accuracy": [0.7, 0.8]}}
    (axes,) = draw(classification_figures(evaluation))["baselines"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rule: x", "n-grams", "network"]
    assert [line.get_xdata()[0] for line in axes.get_lines()] == [1.0, 0.6, 0.75]
    assert [line.get_color() for line in axes.get_lines()] == [WARNING, MUTED, SERIES[0]]
    spans = [part.get_segments()[0][:, 0].tolist() for part in axes.collections]
    assert spans == [[0.9, 1.0], [0.7, 0.8]]
    assert [text.get_text() for text in axes.texts] == ["100.0%", "60.0%", "75.0%"]
