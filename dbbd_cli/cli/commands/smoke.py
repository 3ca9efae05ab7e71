"""`dbbd smoke`: test every command on small runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbd_cli.cli import options
from dbbd_cli.cli.completion import complete
from dbbd_cli.cli.terminal.console import Output
from dbbd_cli.core.errors import ExitCode
from dbbd_cli.core.paths import leave_removed_folder

EXAMPLES = """\
dbbd smoke
dbbd smoke --epochs 1 --device cpu"""


def smoke(
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Number of epochs of each run.")] = 2,
    task: Annotated[
        str,
        typer.Option(
            "--task", metavar="all|NAME", help="Name of the task to test, or all.", autocompletion=complete.task
        ),
    ] = "all",
    device: Annotated[str, options.DEVICE] = "auto",
    runs_dir: Annotated[
        Path,
        typer.Option(
            "--runs-dir",
            metavar="DIR",
            help="Folder in which to create the run folders.",
            autocompletion=complete.folder,
        ),
    ] = Path("runs"),
    json: options.Json = False,
    progress: options.Progress = "auto",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Smoke-test everything on synthetic data: train, interrupt, resume, compare, validate, evaluate and plot.

    A table shows which steps passed; the exit code is 1 if any failed.
    """
    from dbbd_cli.config.load import Override
    from dbbd_cli.tasks.configs import load_config
    from dbbd_cli.tasks.registry import get_task, task_names

    leave_removed_folder(runs_dir)
    # Report an unknown task or device at once, before anything heavy is imported.
    for name in task_names() if task == "all" else [task]:
        load_config(
            get_task(name).smoke_config, [Override("task", name, "--task"), Override("run.device", device, "--device")]
        )
    output = Output(as_json=json, style=progress, quiet=quiet)

    from dbbd_cli.cli.terminal import tables
    from dbbd_cli.services import smoke as service

    result = service.smoke(epochs=epochs, task=task, device=device, runs_dir=runs_dir, progress=output.progress)
    output.show(result, tables.smoke, passed=result.passed)
    if not result.passed:
        raise typer.Exit(ExitCode.BUG)
