"""`dbbd train`: a new run."""

from __future__ import annotations

from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.errors import ConfigError

EXAMPLES = """\
dbbd train --config qr_cnn
dbbd train --config qr_cnn --set data.path=pictures
dbbd train --config dbbd_scannet --set data.path=scenes
dbbd train --config my.yaml --epochs 3 --set training.batch_size=64
dbbd train --config qr_cnn --dry-run"""


def train(
    context: typer.Context,
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
    small: Annotated[
        bool,
        typer.Option(
            "--small",
            help="Turn on small_mode, for tasks that have it: a small network, small batches and few samples.",
        ),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Number of passes over the training split.")
    ] = None,
    run_name: Annotated[
        str | None, typer.Option("--run-name", metavar="NAME", help="Name of the run; its folder is <time>-NAME.")
    ] = None,
    runs_dir: Annotated[
        str | None,
        typer.Option(
            "--runs-dir",
            metavar="DIR",
            help="Folder in which to create the run folder.",
            autocompletion=complete.folder,
        ),
    ] = None,
    device: options.Device = None,
    nproc: options.Processes = None,
    precision: Annotated[
        options.Precision | None,
        typer.Option("--precision", metavar="auto|fp32|bf16|fp16", help="Arithmetic precision."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed for all random choices.")] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw no figures at the end of training.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check configuration and data, run two batches, and estimate time, memory and disk space."
        ),
    ] = False,
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a model and save everything about it in a new run folder.

    Ctrl-C saves and stops; `dbbd resume` continues exactly from there.
    """
    from dbbd_cli.tasks.configs import load_config

    flags = {
        "--small": ("small_mode", True if small else None),
        "--epochs": ("training.epochs", epochs),
        "--run-name": ("run.name", run_name),
        "--runs-dir": ("run.runs_dir", runs_dir),
        "--device": ("run.device", device),
        "--precision": ("run.precision", precision),
        "--seed": ("seed", seed),
        "--no-plots": ("run.plots", False if no_plots else None),
    }
    # Report configuration errors at once, before anything heavy is imported.
    checked = load_config(config, options.overrides(settings, flags))
    if nproc is not None:
        if dry_run:
            raise ConfigError("--dry-run measures a single process", hint="leave out --nproc")
        options.launch(nproc, context)
    output = Output(as_json=json, style=progress, quiet=quiet, together=not dry_run)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import train as service

    if dry_run:
        output.show(service.forecast(checked, progress=output.progress), tables.forecast)
    else:
        command = options.command_line(context)
        output.show(service.train(checked, progress=output.progress, command=command), tables.train)
