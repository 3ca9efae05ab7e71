"""`dbbd resume`: continue a run."""

from __future__ import annotations

from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd resume runs/20260131-120000-qr_cnn
dbbd resume runs/20260131-120000-qr_cnn --epochs 20
dbbd resume runs/20260131-120000-qr_cnn/ckpt.pth"""


def resume(
    context: typer.Context,
    target: options.Target,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Total number of epochs, counted from the start of the run."),
    ] = None,
    settings: options.Settings = None,
    device: options.Device = None,
    nproc: options.Processes = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Continue even if data, code or device have changed, so that the result will differ.",
        ),
    ] = False,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Continue an interrupted run, or extend a finished one.

    The result is the same as that of an uninterrupted run. As a check, the loss of the next batch is recomputed and
    compared with the one stored in the checkpoint.
    """
    leave_removed_folder(target)
    require_run_or_checkpoint(target)
    flags = {"--epochs": ("training.epochs", epochs), "--device": ("run.device", device)}
    changes = options.overrides(settings, flags)
    options.check_overrides(target, changes)
    if nproc is not None:
        options.launch(nproc, context)
    output = Output(as_json=json, style=progress, quiet=quiet, together=True)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import resume as service

    command = options.command_line(context)
    result = service.resume(target, overrides=changes, force=force, progress=output.progress, command=command)
    output.show(result, tables.train)
