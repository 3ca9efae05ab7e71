"""What loads before anything is computed: help and mistakes must be answered at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dbbd_cli.config.shipped import shipped_configs

HEAVY = ("torch", "torchvision", "torchmetrics", "matplotlib", "tensorboard", "numpy", "scipy", "PIL", "yaml")
MOST_FOR_HELP = 45
"""Modules beyond Typer's, frozen: what adds to the start of every command is to be looked at first."""
COMMANDS = ("train", "resume", "validate", "evaluate", "plot", "smoke")

# Runs several command lines in one process, and tells after each what it has loaded: a process for each would take
# most of its time to start.
SCRIPT = """
import contextlib, io, json, os, sys
import typer, typer.completion
typers = set(sys.modules)
from dbbd_cli.cli.app import app
loaded = []
for arguments in json.loads(sys.argv[1]):
    while arguments and "=" in arguments[0]:  # a variable of the environment, as a shell takes it
        name, _, os.environ[name] = arguments.pop(0).partition("=")
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


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What a run left: its settings and its history."""
    folder = tmp_path / "20260131-120000-smoke_qr"
    folder.mkdir()
    shutil.copy(shipped_configs()["smoke_qr"], folder / "config.yaml")
    metrics = {"loss": 0.5, "accuracy": 0.75}
    rows = [
        {"kind": "epoch", "epoch": epoch, "step": 10 * epoch, "learning_rate": 0.001, "train": metrics, "val": metrics,
         "best": epoch == 1}
        for epoch in (1, 2)
    ]  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_help_loads_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    answers = loaded_by(process_environment, ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS))
    for code, modules in answers:
        assert code == 0
        assert modules.isdisjoint({*HEAVY, "pydantic", "rich"})
        assert len(modules) <= MOST_FOR_HELP


def test_mistakes_load_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    option, command, missing, key = loaded_by(
        process_environment,
        ["train", "--epohcs", "3"],
        ["trian"],
        ["evaluate", "no-such-run"],
        ["train", "--config", "qr_cnn", "--set", "trainig.epochs=3"],
    )
    for code, modules in (option, command):
        assert code == 2
        assert modules.isdisjoint({*HEAVY, "rich", "pydantic"})
    code, modules = missing  # Typer converts what it is given with pydantic
    assert code == 4
    assert modules.isdisjoint({*HEAVY, "rich", "dbbd_cli.config.sections"})
    code, modules = key
    assert code == 2
    assert modules.isdisjoint({*HEAVY, "rich"} - {"yaml"})  # the schema is needed here, and with it pydantic


def test_mistakes_in_a_file_or_in_what_a_run_is_given_load_no_pytorch(
    process_environment: Mapping[str, str], run_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("run: [", encoding="utf-8")
    (tmp_path / "unknown.yaml").write_text("task: image_classification\ntrainig: {}\n", encoding="utf-8")
    run = str(run_folder)
    answers = loaded_by(
        process_environment,
        ["train", "--config", "no-such-config"],
        ["train", "--config", str(tmp_path / "bad.yaml")],
        ["train", "--config", str(tmp_path / "unknown.yaml")],
        ["evaluate", run, "--set", "trainig.epochs=3"],
        ["validate", run, "--device", "gpu"],
        ["resume", run, "--epochs", "0"],
        ["smoke", "--device", "gpu"],
    )
    assert [code for code, _ in answers] == [2] * 7
    assert answers[-1][1].isdisjoint({*HEAVY, "rich"} - {"yaml"})


def test_completion_loads_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    others = ("dbbd tr", "dbbd train --", "dbbd train --seed 3 --config ", "dbbd evaluate ", "dbbd smoke --device c")
    lines = (*others, "dbbd train --set run.d")
    for shell in ("bash", "zsh", "fish"):
        answers = loaded_by(
            process_environment,
            *(
                [
                    f"_DBBD_COMPLETE=complete_{shell}", f"_TYPER_COMPLETE_ARGS={line}", f"COMP_WORDS={line}",
                    f"COMP_CWORD={len(line.split(' ')) - 1}",
                ]
                for line in lines
            ),
        )  # fmt: skip
        assert [code for code, _ in answers] == [0] * len(lines)
        assert answers[len(others) - 1][1].isdisjoint({*HEAVY, "pydantic"})
        # Typer itself loads Rich for the shells that show help beside what they offer.
        assert answers[-1][1].isdisjoint({*HEAVY} - {"yaml"})
        assert {"dbbd_cli.config.sections"} <= answers[-1][1], "the keys come from the schema"


def test_plots_load_no_pytorch(process_environment: Mapping[str, str], run_folder: Path) -> None:
    drawn, written = loaded_by(
        process_environment, ["plot", str(run_folder)], ["plot", str(run_folder), "--format=html"]
    )
    assert (drawn[0], written[0]) == (0, 0)
    assert list(run_folder.glob("*.png"))
    assert written[1].isdisjoint({"torch", "torchvision", "torchmetrics", "tensorboard", "scipy"})


def test_runs_as_a_module(process_environment: Mapping[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dbbd_cli", "--version"],
        env=process_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.startswith("dbbd ")
