"""Training a new run, and forecasting what it would take.

PyTorch is imported inside the functions: it takes seconds to load, and what is wrong with the settings or with the data
is told before.
"""

from __future__ import annotations

from collections.abc import Sequence

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.results import Forecast, TrainResult


def train(config: TaskConfig, *, progress: Progress | None = None, command: Sequence[str] = ()) -> TrainResult:
    """Trains a new run in a new folder.

    Args:
        config: the configuration.
        progress: shows bars and lines; nothing is shown by default.
        command: the command line, for the record.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    config, manifest = prepare_run(config, progress)
    from dbbd_cli.services.training import train_new_run

    return train_new_run(config, manifest, progress, command)


def forecast(config: TaskConfig, *, progress: Progress | None = None) -> Forecast:
    """Checks configuration and data, runs one training and one validation batch, and says what the run would take.

    Makes no run folder.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    progress = progress or Silent()
    config, manifest = prepare_run(config, progress)
    from dbbd_cli.services.training import measure_run

    return measure_run(config, manifest, progress)
