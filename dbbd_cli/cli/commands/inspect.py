"""`dbbd inspect`: duplicates, leaks and shortcuts in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd inspect --config qr_url --set data.path=urls.csv
dbbd inspect --config qr_cnn --set data.path=pictures --out figures
dbbd inspect --config dbbd_scannet --set data.path=scenes --json"""


def inspect(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE|NAME",
            help="YAML file, or name of a shipped configuration such as qr_cnn.",
            autocompletion=complete.configuration,
        ),
    ],
    settings: options.Settings = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed for all random choices.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write a figure of the shortcuts to this folder.",
            autocompletion=complete.folder,
        ),
    ] = None,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Look for duplicates, leaks and shortcuts in the data, without training.

    Counts samples per class and split, finds duplicates and near duplicates across classes and splits, and tries
    trivial properties, such as the size of a file or the scheme of a URL, as classifiers.
    """
    from dbbd_cli.tasks.configs import load_config

    # Report configuration errors at once, before anything heavy is imported.
    checked = load_config(config, options.overrides(settings, {"--seed": ("seed", seed)}))
    leave_removed_folder(out)
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal import inspection_table
    from dbbd_cli.services import inspect as service

    output.show(service.inspect(checked, out=out, progress=output.progress), inspection_table.inspect)
