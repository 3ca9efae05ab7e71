"""`dbbd resume`: go on with a run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dbbd_cli.cli.console import Output
from dbbd_cli.cli.options import (
    Debug,
    Device,
    Json,
    Progress,
    ProgressStyle,
    Quiet,
    Settings,
    Target,
    check_overrides,
    existing,
    leave_gone_folder,
    overrides,
)

EXAMPLES = """\
dbbd resume runs/20260131-120000-qr_cnn
dbbd resume runs/20260131-120000-qr_cnn --epochs 20
dbbd resume runs/20260131-120000-qr_cnn/ckpt.pth"""


def resume(
    target: Target,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Train up to this epoch, counted from the start of the run."),
    ] = None,
    settings: Settings = None,
    device: Device = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on even where data, code or device give another loss than the checkpoint was saved with.",
        ),
    ] = False,
    json: Json = False,
    progress: Progress = ProgressStyle.AUTO,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was interrupted, or extend one that is finished.

    The result is what an uninterrupted run would have given. To prove it, the loss of the next batch is computed again
    and compared with that in the checkpoint.
    """
    leave_gone_folder(target)
    existing(target)
    flags = {"--epochs": ("training.epochs", epochs), "--device": ("run.device", device)}
    changes = overrides(settings, flags)
    check_overrides(target, changes)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli import tables
    from dbbd_cli.services import resume as service

    command = ["dbbd", *sys.argv[1:]]
    result = service.resume(target, overrides=changes, force=force, progress=output.progress, command=command)
    output.show(result, tables.train)
