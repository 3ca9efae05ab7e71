"""The options that several commands share, and the changes to the configuration that they make."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dbbd_cli.cli.completion import complete
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.processes import NPROC, SLURM, TORCHRUN, from_environment

if TYPE_CHECKING:
    from dbbd_cli.config.load import Override


Precision = Literal["auto", "fp32", "bf16", "fp16"]

OUTPUT = "Output"
"""The heading of the options about output in a help text."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=OUTPUT)]
Progress = Annotated[
    Literal["auto", "rich", "plain", "none"],
    typer.Option(
        "--progress",
        metavar="auto|rich|plain|none",
        help="Show progress as bars (rich), as a line every 10 s (plain), or not at all (none); "
        "auto: bars on a terminal, plain lines otherwise.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show only warnings, errors and the result.", rich_help_panel=OUTPUT),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback if there is an error.", rich_help_panel=OUTPUT)
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a configuration key, such as training.batch_size=64; repeatable. Values of text settings such "
        "as data.path are taken literally, except null; all other values are YAML.",
        autocompletion=complete.setting,
    ),
]
DEVICE = typer.Option(
    "--device",
    metavar="auto|cpu|cuda|mps",
    help="Device to run on (cuda:1 is the second GPU).",
    autocompletion=complete.device,
)
Device = Annotated[str | None, DEVICE]
Processes = Annotated[
    str | None,
    typer.Option(
        "--nproc",
        metavar="N|auto",
        help="Compute in N processes on this machine, each with its part of a batch N times as large; auto: one for "
        "each GPU, or else for each processor.",
        autocompletion=complete.processes,
    ),
]
SharingProcesses = Annotated[
    str | None,
    typer.Option(
        "--nproc",
        metavar="N|auto",
        help="Divide the samples among N processes on this machine; auto: one for each GPU, or else for each "
        "processor.",
        autocompletion=complete.processes,
    ),
]
Target = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CKPT",
        help="Run folder, or a checkpoint file in one.",
        show_default=False,
        autocompletion=complete.target,
    ),
]


def launch(nproc: str, context: typer.Context) -> None:
    """Run this command line in several processes, and end with their exit code; with 1, go on in this one alone.

    Raises:
        ConfigError: the number is invalid, or torchrun or `srun` has started several processes.
    """
    if nproc != "auto" and not (nproc.isascii() and nproc.isdigit() and 0 < int(nproc) < 10_000):
        raise ConfigError(f"--nproc: {nproc!r} is not a number of processes", hint="pass 1, 2, … or auto")
    if nproc == "1":
        for names in (TORCHRUN, SLURM):  # each process that these have started is alone
            os.environ.pop(names["size"], None)
        return
    member = from_environment(os.environ)
    if member.size > 1 and os.environ.get(NPROC) == str(member.size):
        return  # this is one of the processes
    if member.size > 1:
        raise ConfigError(
            "--nproc starts processes, but torchrun or srun has started several already", hint="leave out --nproc"
        )
    from dbbd_cli.services.launch import launch, processes_of_machine

    number = processes_of_machine(nproc)
    if number > 1:
        code, killed = launch(command_line(context)[1:], number)
        if killed:
            typer.echo(f"Error: {killed}", err=True)
        sys.exit(code)


def command_line(context: typer.Context) -> list[str]:
    """The words of this command line."""
    return ["dbbd", *context.find_root().obj]


def overrides(settings: Sequence[str] | None, flags: Mapping[str, tuple[str, object]]) -> list[Override]:
    """Changes to the configuration: `--set` in the order given, then the other options, which take precedence.

    Args:
        settings: the `KEY=VALUE` texts of `--set`.
        flags: key and value of each option; a value of None means that the option was not given.

    Raises:
        ConfigError: a text is not of the form `KEY=VALUE`.
    """
    from dbbd_cli.config.load import Override, parse_override

    given = [parse_override(text) for text in settings or ()]
    given.extend(Override(key, value, flag) for flag, (key, value) in flags.items() if value is not None)
    return given


def check_overrides(target: Path, changes: Sequence[Override]) -> None:
    """Report invalid changes to the configuration of a run before PyTorch is imported, which takes seconds.

    The configuration in the checkpoint is the one that counts, but reading it needs PyTorch. `config.yaml` is nearly
    always the same; if it is missing or invalid, the check is left to the service.

    Raises:
        ConfigError: a key or a value is invalid.
    """
    from dbbd_cli.tasks.configs import load_config

    path = (target if target.is_dir() else target.parent) / "config.yaml"
    if not changes or not os.path.isfile(path):  # noqa: PTH113 - a Path raises without permission
        return
    try:
        load_config(str(path))
    except ConfigError:
        return
    load_config(str(path), changes)
