"""`dbbd export`: the weights of a checkpoint in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd export runs/20260131-120000-qr_cnn
dbbd export runs/20260131-120000-qr_cnn/ckpt.pth --out newest.pth"""


def export(
    target: options.Target,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The new file, FILE.safetensors or FILE.pth (a state dict); default: next to the checkpoint.",
            autocompletion=complete.folder,
        ),
    ] = None,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the weights of a checkpoint, by default the best model, to one file that other programs read.

    The file has the network alone, without optimizer and history, also if it was divided among processes. It can be
    the model.weights of another run.
    """
    leave_removed_folder(target)
    require_run_or_checkpoint(target)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import export as service

    output.show(service.export(target, out=out, progress=output.progress), tables.export)
