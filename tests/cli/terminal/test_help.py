"""The help texts fit every terminal, explain every option, and show examples that can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from dbbd_cli.cli.app import app

Run = Callable[..., Any]
COMMANDS = ("train", "resume", "validate", "evaluate", "predict", "export", "plot", "inspect", "prepare", "smoke")


@pytest.mark.parametrize("width", [40, 64, 80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(width: int, name: str) -> None:
    group: Any = typer.main.get_command(app)
    command = group.commands[name] if name else group
    text = command.make_context(name, [], resilient_parsing=True, terminal_width=width).get_help()
    # Examples are never broken.
    assert max(len(line) for line in text.partition("\nExamples:\n")[0].splitlines()) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_typed(command: str, run: Run) -> None:
    examples = run(command, "--help").stdout.split("\nExamples:\n")[1]
    for example in examples.splitlines():
        program, name, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, name) == ("dbbd", command)
        # Parsing fails for unknown options; the command itself is not run.
        group: Any = typer.main.get_command(app)
        group.commands[command].make_context(name, arguments)


def test_every_option_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command in COMMANDS:
        for line in run(command, "--help").stdout.splitlines():
            if re.match(r"\s+(-\w, )?--", line):
                assert re.search(r"\S  +[A-Z].*[.\]]$|\S  +[A-Z]", line), line


def test_defaults_and_required_options_are_marked(run: Run) -> None:
    assert re.search(r"\[default:\s+test\]", run("evaluate", "--help").stdout)
    assert re.search(r"\[default:\s+2\b", run("smoke", "--help").stdout)
    assert "[required]" in run("train", "--help").stdout
    assert "--json                           Print the result as one JSON object.\n" in run("train", "--help").stdout


def test_colors_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbbd_cli.cli.terminal.help.colored", lambda stream: True)
    assert "\x1b[1m" in CliRunner().invoke(app, ["--help"], color=True).stdout
