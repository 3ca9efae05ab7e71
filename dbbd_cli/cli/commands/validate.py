"""`dbbd validate`: loss and metrics on the validation split."""

from __future__ import annotations

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd validate runs/20260131-120000-qr_cnn
dbbd validate runs/20260131-120000-qr_cnn/best_model.pth --device cpu"""


def validate(
    context: typer.Context,
    target: options.Target,
    settings: options.Settings = None,
    device: options.Device = None,
    nproc: options.SharingProcesses = None,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure loss and metrics on the validation split, compared with the logged values."""
    leave_removed_folder(target)
    require_run_or_checkpoint(target)
    changes = options.overrides(settings, {"--device": ("run.device", device)})
    options.check_overrides(target, changes)
    if nproc is not None:
        options.launch(nproc, context)
    output = Output(as_json=json, style=progress, quiet=quiet, together=True)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import validate as service

    output.show(service.validate(target, overrides=changes, progress=output.progress), tables.validate)
