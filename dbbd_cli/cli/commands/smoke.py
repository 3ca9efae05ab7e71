"""`dbbd smoke`: test everything at a small scale."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.options import Debug, Json, Progress, ProgressStyle, Quiet, leave_gone_folder
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.errors import ExitCode

EXAMPLES = """\
dbbd smoke
dbbd smoke --epochs 1 --device cpu"""


class Task(str, Enum):
    """The tasks that can be tried: all, or one."""

    ALL = "all"
    IMAGE_CLASSIFICATION = "image_classification"
    DBBD = "dbbd"


def smoke(
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Number of epochs of each run.")] = 2,
    task: Annotated[
        Task, typer.Option("--task", metavar="all|NAME", help="Test only this task, such as image_classification.")
    ] = Task.ALL,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda|mps",
            help="Run on this device (cuda:1 for the second GPU).",
            autocompletion=complete.device,
        ),
    ] = "auto",
    runs_dir: Annotated[
        Path,
        typer.Option(
            "--runs-dir", metavar="DIR", help="Create the run folders in this folder.", autocompletion=complete.folder
        ),
    ] = Path("runs"),
    json: Json = False,
    progress: Progress = ProgressStyle.AUTO,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Smoke-test everything on synthetic data: train, interrupt, resume, compare, validate, evaluate and plot.

    A table shows which steps passed; the exit code is 1 if one failed.
    """
    from dbbd_cli.config.load import Override
    from dbbd_cli.tasks.configs import load_config

    load_config("smoke_qr", [Override("run.device", device, "--device")])  # a misspelt name is answered at once
    output = Output(as_json=json, style=progress, quiet=quiet)
    leave_gone_folder(runs_dir)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import smoke as service

    result = service.smoke(epochs=epochs, task=task.value, device=device, runs_dir=runs_dir, progress=output.progress)
    output.show(result, tables.smoke, passed=result.passed)
    if not result.passed:
        raise typer.Exit(ExitCode.BUG)
