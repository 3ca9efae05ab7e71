"""The pictures that were classified wrongly with most confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.report.style import INK, MUTED, drawable, headed_figure
from dbbd_cli.report.text import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy import ndarray

PICTURES_FILE = "errors.npy"
MAX_PICTURES = 12
_COLUMNS = 4
_MAX_SIDE = 4096
_HEADER_BYTES = 1024


def pictures_file(pictures: ndarray) -> bytes:
    """The content of `errors.npy`: pictures `(P, S, S, C)`, uint8."""
    import numpy as np

    file = BytesIO()
    np.save(file, np.ascontiguousarray(pictures), allow_pickle=False)
    return file.getvalue()


def read_pictures(content: bytes) -> ndarray:
    """Read `errors.npy`: pictures `(P, S, S, C)`, uint8, with C 1 or 3.

    Raises:
        CheckpointError: the file is damaged. Nothing in it is ever executed.
    """
    import numpy as np

    file = BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version")
        shape, is_transposed, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_BYTES)
    except Exception as error:  # NumPy raises all kinds, such as tokenize.TokenError for a damaged header
        raise _damaged("not an array") from error
    if dtype != np.uint8 or is_transposed or len(shape) != 4 or shape[3] not in (1, 3):
        raise _damaged("not an array of pictures")
    if not 1 <= shape[0] <= MAX_PICTURES or not all(1 <= side <= _MAX_SIDE for side in shape[1:3]):
        raise _damaged("too many or too large pictures")
    data = content[file.tell() :]
    if len(data) != shape[0] * shape[1] * shape[2] * shape[3]:
        raise _damaged("truncated")
    return np.frombuffer(data, np.uint8).reshape(shape)


def error_gallery(errors: Sequence[Mapping[str, Any]], pictures: ndarray, facts: Sequence[str], warning: str) -> Figure:
    """Draw pictures with their true and predicted class, the most confident error first.

    Args:
        errors: `errors` of an evaluation, at least as many as pictures.
        pictures: `(P, S, S, C)`.
        facts: the line under the title.
        warning: the start of that line; empty for none.
    """
    rows = -(-len(pictures) // _COLUMNS)
    facts = [*facts, "true class → predicted class, calibrated probability"]
    figure = headed_figure((8.4, 1.0 + 2.5 * rows), "Most confident errors", facts, warning=warning)
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, picture, error in zip(places, pictures, errors, strict=False):
        gray = picture.shape[2] == 1
        axes.imshow(picture[:, :, 0] if gray else picture, cmap="gray" if gray else None, vmin=0, vmax=255)
        classes = f"{drawable(error['class'], 14)} → {drawable(error['predicted'], 14)}"
        axes.set_title(f"{classes}\n{percent(error['probability'])}", fontsize=8.5, loc="center", color=INK)
        axes.text(
            0.5,
            -0.05,
            drawable(error["sample"], 26),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=7,
            color=MUTED,
        )
    return figure


def _damaged(problem: str) -> CheckpointError:
    return CheckpointError(f"{PICTURES_FILE} is damaged: {problem}", hint="write it again with `dbbd evaluate`")
