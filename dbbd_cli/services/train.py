"""Train a new run, or estimate what it would take.

Settings and data are checked before PyTorch is imported, which takes seconds, so the functions import what needs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.services.inspect import warn_of_shortcuts
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.results import Forecast, TrainResult


def train(config: TaskConfig, *, progress: Progress | None = None, command: Sequence[str] = ()) -> TrainResult:
    """Train a new run in a new folder; if torchrun or `srun` has started several processes, together with these.

    Args:
        config: the configuration.
        progress: shows bars and lines; nothing is shown by default.
        command: the command line, for the record.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    member = from_environment(os.environ)
    progress = progress if progress and member.is_first else Silent()
    if member.size > 1:
        from dbbd_cli.services.train_together import train_together

        return train_together(config, member, progress, command)
    config, manifest = prepare_run(config, progress)
    warn_of_shortcuts(config, manifest, progress)
    from dbbd_cli.services.training import train_new_run

    return train_new_run(config, manifest, progress, command)


def forecast(config: TaskConfig, *, progress: Progress | None = None) -> Forecast:
    """Check configuration and data, run one training and one validation batch, and estimate what the run would take.

    No run folder is created.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    progress = progress or Silent()
    config, manifest = prepare_run(config, progress)
    warn_of_shortcuts(config, manifest, progress)
    from dbbd_cli.services.dry_run import measure_run

    return measure_run(config, manifest, progress)
