"""Loads matplotlib, whatever the environment says, and draws figures so that one that fails does not take the others.

Nothing is ever shown on a screen: figures are drawn with Agg. `pyplot` and its backends are not used.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dbbd_cli.errors import ConfigError, DbbdError
from dbbd_cli.files import can_be_made, private_folder
from dbbd_cli.report.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnFailure = Callable[[str, Exception], None]
"""Told the name of a figure that could not be drawn, and why."""

_INHERITED = ("MPLBACKEND", "MATPLOTLIBRC")
"""Variables that matplotlib obeys, or fails on, when it is imported: Jupyter sets the first for all that it starts."""


def load_matplotlib() -> None:
    """Imports matplotlib, unless it is imported already.

    To be called before anything else imports it, TorchMetrics included.

    Raises:
        ConfigError: it cannot be imported: it is broken, or a settings file of the user is.
    """
    if "matplotlib" in sys.modules:
        return
    inherited = {name: os.environ.pop(name) for name in _INHERITED if name in os.environ}
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of settings that do not matter here
    try:
        with suppress(OSError):
            _choose_config_folder()
        import matplotlib.font_manager
        import matplotlib.style

        if "MPLBACKEND" in inherited:  # for whoever uses pyplot after us in the same process
            with suppress(ValueError):
                matplotlib.rcParams["backend"] = inherited["MPLBACKEND"]
    except Exception as error:
        raise ConfigError(
            f"matplotlib cannot be loaded: {reason_of(error)}",
            hint="check the files matplotlibrc and *.mplstyle in the current folder and in ~/.config/matplotlib",
        ) from error
    finally:
        logger.setLevel(level)
        os.environ.update(inherited)


def _choose_config_folder() -> None:
    """Gives matplotlib a folder for its list of fonts where it has none: some versions fail without."""
    try:
        chosen = os.environ.get("MPLCONFIGDIR")
        if can_be_made(Path(chosen) if chosen else Path.home() / ".config" / "matplotlib"):
            return
    except RuntimeError:
        pass  # no home folder
    os.environ["MPLCONFIGDIR"] = str(private_folder("dbbd") / "matplotlib")


def draw(drawings: Mapping[str, Callable[[], Figure]], failed: OnFailure | None = None) -> dict[str, Figure]:
    """Draws figures in the common style.

    Args:
        drawings: draws each figure, by its name.
        failed: told of a figure that cannot be drawn, which is then left out; without it, the error is raised.
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


def reason_of(error: Exception) -> str:
    """Why something failed, in words."""
    return error.message if isinstance(error, DbbdError) else f"{type(error).__name__}: {error}"
