"""Every setting of a run, task by task. The sections that tasks share are in `sections`."""

from __future__ import annotations

from typing import Any

from dbbd_cli.config.sections import Section
from dbbd_cli.tasks.dbbd.config import PointPretrainingConfig
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

Config = ImageClassificationConfig | PointPretrainingConfig
"""Any run's configuration. The field `task` tells which schema a file follows."""

SCHEMAS: dict[str, type[Config]] = {"image_classification": ImageClassificationConfig, "dbbd": PointPretrainingConfig}
"""The schema of each task."""


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as plain values, defaults included, ready for YAML, JSON or a checkpoint."""
    return config.model_dump(mode="json")
