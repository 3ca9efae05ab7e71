"""Check that a resumed run is still the same run, and report what has changed."""

from __future__ import annotations

from dbbd_cli.config.sections import changed_settings
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.paths import shown_path, shown_value
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.engine.checkpoint.replay_check import verify_replay_check
from dbbd_cli.engine.runtime import Runtime, RuntimeRecord
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.runs.folder import CONFIG
from dbbd_cli.services.session import OpenedRun
from dbbd_cli.tasks.configs import load_config


def check_replay(trainer: Trainer, run: OpenedRun, force: bool, progress: Progress) -> None:
    """Compute the loss of the next batch again, and compare it with the checkpoint's.

    There is no comparison if the checkpoint has no replay check, or if a setting has changed that the loss depends on.

    Raises:
        CheckpointError: the loss differs, and `force` is off.
    """
    replay = run.checkpoint["proof"]
    if replay is None:
        progress.line(
            "Resume not verified: this checkpoint has no replay check, because its next batch could not be loaded."
        )
        return
    harmless = tuple(f"{key}." for key in run.config.loading_settings)
    relevant = changed_settings(run.saved, run.config, ("data", "model", "loss"))
    changed = [key for key in relevant if not f"{key}.".startswith(harmless)]
    if changed:
        progress.line(f"Resume not verified, because {', '.join(changed)} changed.")
        return
    try:
        verify_replay_check(trainer.workload, trainer.runtime, replay)
    except CheckpointError as error:
        difference = run.config.batches_of_earlier_versions
        if difference and run.saved_batch_size > 1 and "batch_size" not in run.checkpoint["runtime"]:
            error.details.append(f"likely reason: {difference}, so that results will differ slightly from here on")
            error.hint = "if nothing else has changed, continue with --force"
        if not force:
            raise
        progress.warn(f"{error.message}. Continuing because of --force.")


def report_runtime_change(recorded: RuntimeRecord, runtime: Runtime, progress: Progress) -> None:
    """Report another precision, or a device whose results differ in the last digits.

    Args:
        recorded: what the run was computed with so far.
        runtime: device and precision from now on.
        progress: receives the messages.
    """
    now = runtime.record()
    if recorded.precision != now.precision:
        progress.line(f"The run has been trained in {recorded.precision} so far, and continues in {now.precision}.")
    before, after = _computed_on(recorded), _computed_on(now)
    if before != after:
        progress.line(
            f"The run has been computed on {before} so far, and continues on {after}: its results will differ in the "
            "last digits from those of an uninterrupted run."
        )


def _computed_on(record: RuntimeRecord) -> str:
    """What determines the last digits of results, in words; on a GPU, they may differ anyway."""
    if record.device != "cpu":
        return record.device
    return f"a CPU ({printable(record.processor[:200])}) with {counted(record.threads, 'thread')}"


def report_config_changes(run: OpenedRun, progress: Progress) -> None:
    """Warn if the folder's config.yaml differs from the checkpoint's configuration: edited, or of another run."""
    path = run.folder / CONFIG
    try:
        written = load_config(str(path)) if path.is_file() else run.saved
    except ConfigError:  # damaged: it is about to be rewritten
        return
    overridden = changed_settings(run.saved, run.config)
    others = [
        f"{key} is {shown_value(there)} there and {shown_value(here)} here"
        for key, (there, here) in changed_settings(written, run.saved).items()
        if key not in overridden
    ]
    if others:
        more = f", and {len(others) - 3} more" if len(others) > 3 else ""
        progress.warn(
            f"{CONFIG} differs from the configuration in {run.path.name}, which is used: "
            f"{'; '.join(others[:3])}{more}. Change settings with --set"
        )


def check_training_settings(run: OpenedRun, num_processes: int) -> None:
    """Raise if the settings of `training` cannot continue from this checkpoint in this number of processes.

    Raises:
        ConfigError: the batch size has changed in the middle of an epoch, or more epochs are done than are wanted.
    """
    training, saved, state = run.config.training, run.saved.training, run.state
    batches = (run.batch_size or training.batch_size * num_processes, training.accumulate_batches)
    if state.batch and batches != (run.saved_batch_size, saved.accumulate_batches):
        raise ConfigError(
            f"{shown_path(run.path)} is in the middle of an epoch, where the batch size cannot change: "
            f"{counted(run.saved_batch_size, 'sample')} of all processes together",
            hint="leave out training.batch_size and training.accumulate_batches until the epoch has ended",
        )
    done = len(state.history)
    if training.epochs < done:
        raise ConfigError(
            f"training.epochs: {training.epochs} is less than the {counted(done, 'epoch')} already trained",
            hint=f"pass more than {done} to train further",
        )


def report_schedule_change(run: OpenedRun, progress: Progress) -> None:
    """Report a learning rate that will not follow the curve of an uninterrupted run."""
    now, planned = run.config.training, run.saved.training.epochs
    if now.scheduler == "cosine" and now.scheduler_epochs is None and now.epochs != planned:
        progress.line(
            f"The cosine schedule was planned for {counted(planned, 'epoch')}: this run will differ from "
            f"an uninterrupted {now.epochs}-epoch run. To avoid that, set training.scheduler_epochs from the start."
        )
