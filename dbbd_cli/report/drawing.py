"""Load matplotlib, and draw figures so that a failure does not affect the others.

Figures are drawn with Agg and never shown; `pyplot` and its backends are not used.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import ConfigError, DbbdError
from dbbd_cli.report.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnFailure = Callable[[str, Exception], None]
"""Called with the name of a figure that could not be drawn, and the error."""


def load_matplotlib() -> None:
    """Import matplotlib. Call this before anything else imports it, such as TorchMetrics.

    Raises:
        ConfigError: it cannot be imported because it, or one of the user's settings files, is broken.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)  # a backend that is not installed here, as in a child of Jupyter
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about settings that do not matter here
    try:
        import matplotlib.font_manager
        import matplotlib.style  # noqa: F401
    except Exception as error:
        raise ConfigError(
            f"matplotlib cannot be loaded: {message_of(error)}",
            hint="check the files matplotlibrc and *.mplstyle in the current folder and in ~/.config/matplotlib",
        ) from error
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def draw(drawings: Mapping[str, Callable[[], Figure]], failed: OnFailure | None = None) -> dict[str, Figure]:
    """Draw figures in the common style.

    Args:
        drawings: name to a function that draws the figure.
        failed: called for a figure that cannot be drawn, which is omitted; if None, the error is raised.
    """
    figures = {}
    for name, drawing in drawings.items():
        try:
            load_matplotlib()
            with styled():
                figures[name] = drawing()
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
    return figures


def message_of(error: Exception) -> str:
    """The message of an error, with its type if it is not one of ours."""
    return error.message if isinstance(error, DbbdError) else f"{type(error).__name__}: {error}"
