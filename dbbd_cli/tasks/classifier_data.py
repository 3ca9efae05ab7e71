"""What the tasks that train classifiers share, and what is light to import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbbd_cli.config.sections import TaskConfig

FIGURE_NAMES = ("confusion_matrix", "roc", "precision_recall", "reliability", "baselines", "errors", "corruptions")
"""The figures of a classifier's evaluation."""


def config_for_other_data(config: TaskConfig, path: Path) -> TaskConfig:
    """Return a classifier's configuration with another source: the URLs in a file, or a folder with one per class.

    Raises:
        ConfigError: the task has no such source.
    """
    from dbbd_cli.config.load import Override
    from dbbd_cli.config.sections import to_plain
    from dbbd_cli.tasks.configs import config_from_mapping

    values = to_plain(config)
    changes = {
        "source": "urls" if path.is_file() else "folder",
        "path": str(path.resolve()),
        "classes": None,
        "sample_per_class": None,
    }
    known = {key: value for key, value in changes.items() if key in values["data"]}
    overrides = [Override(f"data.{key}", value, "--data") for key, value in known.items()]
    overrides.append(Override("data.split.group", "none", "--data"))
    return config_from_mapping(values, overrides, origin="--data")
