"""What loads before anything is computed: help and mistakes must be answered at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

HEAVY = ("torch", "torchvision", "torchmetrics", "matplotlib", "tensorboard", "numpy", "scipy", "PIL", "yaml")
COMMANDS = ("train", "resume", "validate", "evaluate", "plot", "smoke")

# Runs several command lines in one process, and tells after each what it has loaded: a process for each would take
# most of its time to start.
SCRIPT = """
import contextlib, io, json, sys
import typer, typer.completion
typers = set(sys.modules)
from dbbd_cli.cli.app import app
loaded = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(arguments, prog_name="dbbd")
        except SystemExit as stop:
            code = stop.code
    loaded.append([code, sorted(set(sys.modules) - typers)])
print(json.dumps(loaded))
"""


def loaded_by(environment: Mapping[str, str], *command_lines: list[str]) -> list[tuple[int, set[str]]]:
    """The exit code of each command line, and the modules that it and those before it have loaded beyond Typer's."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(command_lines)], env=environment, capture_output=True, check=True
    )
    return [(code, set(modules)) for code, modules in json.loads(process.stdout)]


def test_help_loads_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    (code, modules), *commands = loaded_by(
        process_environment, ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)
    )
    assert code == 0
    # Typer itself may load pydantic and rich, but not for the help of the program.
    assert modules.isdisjoint({*HEAVY, "pydantic", "rich"})
    for code, modules in commands:
        assert code == 0
        assert modules.isdisjoint({*HEAVY, "rich", "dbbd_cli.config.schema"})


def test_mistakes_load_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    option, command, missing, key = loaded_by(
        process_environment,
        ["train", "--epohcs", "3"],
        ["trian"],
        ["evaluate", "no-such-run"],
        ["train", "--config", "qr_cnn", "--set", "trainig.epochs=3"],
    )
    for (code, modules), expected in ((option, 2), (command, 2), (missing, 4)):
        assert code == expected
        assert modules.isdisjoint({*HEAVY, "rich", "dbbd_cli.config.schema"})
    code, modules = key
    assert code == 2
    assert modules.isdisjoint({*HEAVY, "rich"} - {"yaml"})  # the schema is needed here, and with it pydantic


def test_runs_as_a_module(process_environment: Mapping[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dbbd_cli", "--version"],
        env=process_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.startswith("dbbd ")
