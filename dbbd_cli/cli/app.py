"""The program: its commands and what holds for all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from dbbd_cli import __version__
from dbbd_cli.cli import completion_scripts
from dbbd_cli.cli import evaluate, plot, resume, smoke, train, validate
from dbbd_cli.cli.boundary import Program
from dbbd_cli.cli.help import Command

EXAMPLES = """\
dbbd smoke
dbbd train --config qr_cnn --set data.source=folder --set data.path=pictures
dbbd evaluate runs/2026-01-31_12-00-00-qr_cnn"""

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=EXAMPLES,
)

for name, module in (("train", train), ("resume", resume)):
    pass
