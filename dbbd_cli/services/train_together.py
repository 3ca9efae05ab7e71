"""Train a new run in several processes, or the run that they had begun before torchrun restarted them."""

from __future__ import annotations

from collections.abc import Sequence

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.processes import Member
from dbbd_cli.core.progress import Progress
from dbbd_cli.engine.processes import joined
from dbbd_cli.services.continuation import continue_begun
from dbbd_cli.services.inspect import warn_of_shortcuts
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.results import TrainResult
from dbbd_cli.services.training import train_new_run


def train_together(config: TaskConfig, member: Member, progress: Progress, command: Sequence[str]) -> TrainResult:
    """Train a run, as one of several processes that all call this."""
    with joined(member, timeout=config.run.process_timeout) as processes:
        begun = processes.begun_folder(command)
        if begun is not None:
            return continue_begun(begun, processes, progress=progress, command=command)
        with processes.in_turns():
            config, manifest = prepare_run(config, progress)
            warn_of_shortcuts(config, manifest, progress)
        return train_new_run(_with_scaled_rate(config, processes.size), manifest, progress, command, processes)


def _with_scaled_rate(config: TaskConfig, num_processes: int) -> TaskConfig:
    """The configuration with the learning rate for batches of several processes; a resumed run keeps that rate."""
    training = config.training
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[training.scale_learning_rate]
    rate = training.learning_rate * num_processes**power
    # The configuration of the run is trained as it stands, also if another run begins from it.
    scaled = training.model_copy(update={"learning_rate": rate, "scale_learning_rate": "none"})
    return config.model_copy(update={"training": scaled})
