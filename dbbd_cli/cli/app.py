"""The program: its commands, and the options that come before them."""

from __future__ import annotations

from typing import Annotated

import typer

from dbbd_cli import __version__
from dbbd_cli.cli.boundary import Program
from dbbd_cli.cli.commands import evaluate, export, inspect, plot, predict, prepare, resume, smoke, train, validate
from dbbd_cli.cli.completion import scripts as completion_scripts
from dbbd_cli.cli.terminal.help import Command
from dbbd_cli.cli.terminal.streams import write_result

EXAMPLES = """\
dbbd smoke
dbbd train --config qr_cnn --set data.path=pictures
dbbd evaluate runs/20260131-120000-qr_cnn"""

app = typer.Typer(
    name="dbbd",
    cls=Program,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    epilog=EXAMPLES,
)
app.command("train", cls=Command, epilog=train.EXAMPLES)(train.train)
app.command("resume", cls=Command, epilog=resume.EXAMPLES)(resume.resume)
app.command("validate", cls=Command, epilog=validate.EXAMPLES)(validate.validate)
app.command("evaluate", cls=Command, epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("predict", cls=Command, epilog=predict.EXAMPLES)(predict.predict)
app.command("export", cls=Command, epilog=export.EXAMPLES)(export.export)
app.command("plot", cls=Command, epilog=plot.EXAMPLES)(plot.plot)
app.command("inspect", cls=Command, epilog=inspect.EXAMPLES)(inspect.inspect)
app.command("prepare", cls=Command, epilog=prepare.EXAMPLES)(prepare.prepare)
app.command("smoke", cls=Command, epilog=smoke.EXAMPLES)(smoke.smoke)


def _version(wanted: bool) -> None:
    if wanted:
        write_result(f"dbbd {__version__}")
        raise typer.Exit


def _install_completion(wanted: bool) -> None:
    if wanted:
        shell, path = completion_scripts.install()
        write_result(f"Installed completion for {shell} in {path}. Open a new shell to use it.")
        raise typer.Exit


def _show_completion(wanted: bool) -> None:
    if wanted:
        write_result(completion_scripts.script_for_this_shell().removesuffix("\n"))
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help="Install completion for the current shell.",
        ),
    ] = False,
    show_completion: Annotated[
        bool,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            help="Print the completion script for the current shell.",
        ),
    ] = False,
) -> None:
    """Train, resume, validate, evaluate, plot and smoke-test PyTorch models, and inspect their data."""
