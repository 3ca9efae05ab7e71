"""Continue a run that was stopped, or extend a finished one.

The run folder is checked and locked before PyTorch is imported, which takes seconds, so `resume` imports what needs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, StoppedError
from dbbd_cli.core.paths import resume_command
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.signals import signal_of
from dbbd_cli.runs.folder import SPLITS, is_run_folder, locked
from dbbd_cli.services.results import TrainResult


def resume(
    target: Path,
    *,
    overrides: Sequence[Override] = (),
    force: bool = False,
    progress: Progress | None = None,
    command: Sequence[str] = (),
) -> TrainResult:
    """Continue a run exactly where its checkpoint left it, in its own folder.

    A checkpoint that is not the newest of its folder is continued in a new folder, so that nothing is lost. If torchrun
    or `srun` has started several processes, they continue the run together, with the batches that it had before.

    Args:
        target: a run folder, or a checkpoint file inside one.
        overrides: settings that replace those of the run, such as more epochs.
        force: whether to continue even if data, code or device give a loss that differs from the checkpoint's.
        progress: shows bars and lines; nothing is shown by default.
        command: the command line, for the record.

    Raises:
        DbbdError: see the subclasses in `core.errors`.
    """
    member = from_environment(os.environ)
    progress = progress if progress and member.is_first else Silent()
    target = target.resolve()
    folder = target if target.is_dir() else target.parent
    with member.reporting_once():
        if not folder.is_dir():
            raise CheckpointError(f"{target} does not exist", hint="pass a run folder, or a .pth file inside one")
        if not is_run_folder(folder):
            raise CheckpointError(
                f"{target} is not in a run folder: there is no {SPLITS} next to it",
                hint="pass a run folder, or a .pth file inside one",
            )
    # Of several processes, the first one has the lock.
    with locked(folder) if member.is_first else nullcontext():
        try:
            from dbbd_cli.services.continuation import continue_run

            return continue_run(
                target, member=member, overrides=overrides, force=force, progress=progress, command=command
            )
        except KeyboardInterrupt as error:
            raise StoppedError(
                "Stopped before the first step; the run is unchanged.",
                signal_number=signal_of(error),
                hint=f"continue with: {resume_command(folder)}",
            ) from error
