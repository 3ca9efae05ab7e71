"""`dbbd plot`: figures of the training history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.targets import require_run_or_checkpoint
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd plot runs/20260131-120000-qr_cnn
dbbd plot runs/20260131-120000-qr_cnn runs/20260201-093000-qr_resnet18 --out figures
dbbd plot runs/20260131-120000-qr_cnn --format html"""


def plot(
    targets: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folder; several are compared in one figure.",
            show_default=False,
            autocompletion=complete.target,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write the figures to this folder instead of the run folder.",
            autocompletion=complete.folder,
        ),
    ] = None,
    format_: Annotated[
        Literal["png", "svg", "pdf", "html"],
        typer.Option("--format", metavar="png|svg|pdf|html", help="File format of the figures."),
    ] = "png",
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Plot the loss, metrics and learning rate of one or more runs over their epochs."""
    out = out or (None if len(targets) == 1 else Path())
    leave_removed_folder(*targets, out)
    for target in targets:
        require_run_or_checkpoint(target, any_file=True)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import plot as service

    output.show(service.plot(targets, out=out, format=format_), tables.plot)
