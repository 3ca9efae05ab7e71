"""The commands and options are frozen: users and scripts rely on them."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import typer.main

from dbbd_cli import __version__
from dbbd_cli.cli.app import app
from dbbd_cli.cli.options import Precision
from dbbd_cli.config.sections import RunConfig

OUTPUT = {"--json", "--progress", "--quiet", "-q", "--debug", "--help", "-h"}
SURFACE = {
    "train": {
        "--config", "-c", "--set", "--epochs", "--run-name", "--runs-dir", "--device", "--nproc", "--precision",
        "--seed", "--no-plots", "--dry-run", "--small",
    },
    "resume": {"RUN|CKPT", "--epochs", "--set", "--device", "--nproc", "--force"},
    "validate": {"RUN|CKPT", "--set", "--device", "--nproc"},
    "evaluate": {
        "RUN|CKPT", "--split", "--out", "--data", "--no-plots", "--corruptions", "--corruption-samples", "--config",
        "-c", "--set", "--device", "--nproc",
    },
    "predict": {"RUN|CKPT", "INPUT...", "--explain", "--csv", "--html", "--out", "--set", "--device"},
    "export": {"RUN|CKPT", "--out"},
    "plot": {"RUN...", "--out", "--format"},
    "inspect": {"--config", "-c", "--set", "--seed", "--out"},
    "prepare": {"--config", "-c", "--set", "--seed", "--workers"},
    "smoke": {"--epochs", "--task", "--device", "--runs-dir"},
}  # fmt: skip


def names(command: Any, parent: Any = None) -> set[str]:
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    found: set[str] = set()
    for parameter in command.get_params(context):
        is_argument = parameter.param_type_name == "argument"
        found |= {parameter.metavar} if is_argument else {*parameter.opts, *parameter.secondary_opts}
    return found


def test_commands() -> None:
    program: Any = typer.main.get_command(app)
    assert list(program.commands) == list(SURFACE)
    assert names(program) == {"--version", "--install-completion", "--show-completion", "--help", "-h"}


@pytest.mark.parametrize("name", SURFACE)
def test_options(name: str) -> None:
    program: Any = typer.main.get_command(app)
    parent = program.make_context("dbbd", [], resilient_parsing=True)
    assert names(program.commands[name], parent) == SURFACE[name] | OUTPUT


def test_version(run: Any) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"dbbd {__version__}\n")


def test_choices_are_those_of_the_schema() -> None:
    assert get_args(Precision) == get_args(RunConfig.model_fields["precision"].annotation)
