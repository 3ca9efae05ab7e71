"""`dbbd prepare`: read and prepare samples ahead of training."""

from __future__ import annotations

from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.errors import DataError
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd prepare --config dbbd_scannet --set data.path=scans
dbbd prepare --config dbbd_scannet --set data.path=scans --set data.grid_size=0.05 --workers 8
dbbd prepare --config qr_cnn --set 'data.path=s3://bucket/codes-{000..099}.tar'"""


def prepare(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE|NAME",
            help="YAML file, or name of a shipped configuration such as dbbd_scannet.",
            autocompletion=complete.configuration,
        ),
    ],
    settings: options.Settings = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed for all random choices.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, max=256, help="Number of processes; default: one for each processor."
        ),
    ] = None,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Prepare scans or images ahead of training.

    Of scans, normals, region trees and features are computed; images are downloaded, if they are remote, and decoded.
    All this is kept in the cache, where training finds it. What is there is skipped, so an interrupted command can be
    repeated. Samples that cannot be used are listed, a line each; the exit code is then 3.
    """
    from dbbd_cli.tasks.configs import load_config

    # Report configuration errors at once, before anything heavy is imported.
    checked = load_config(config, options.overrides(settings, {"--seed": ("seed", seed)}))
    leave_removed_folder()
    output = Output(as_json=json, style=progress, quiet=quiet, together=True)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import prepare as service

    result = service.prepare(checked, num_workers=workers, progress=output.progress)
    output.show(result, tables.prepare)
    if result.problems:
        raise typer.Exit(DataError.exit_code)
