"""Help, completion and usage errors import nothing slow."""

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
"""Modules beyond Typer's. More would slow down the start of every command: raise this only for a reason."""
COMMANDS = ("train", "resume", "validate", "evaluate", "predict", "export", "plot", "inspect", "prepare", "smoke")

# Runs several command lines in one process, which is faster than one process each, and reports the modules after each.
SCRIPT = """
import contextlib, io, json, os, sys
import typer, typer.completion
typers = set(sys.modules)
from dbbd_cli.cli.app import app
loaded = []
for arguments in json.loads(sys.argv[1]):
    while arguments and "=" in arguments[0]:  # an environment variable, as in a shell
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
    """The exit code of each command line, and the modules beyond Typer's that are imported after it."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(command_lines)], env=environment, capture_output=True, check=True
    )
    return [(code, set(modules)) for code, modules in json.loads(process.stdout)]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with a configuration and a history."""
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


def test_help_imports_nothing_heavy(process_environment: Mapping[str, str]) -> None:
    answers = loaded_by(process_environment, ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS))
    for code, modules in answers:
        assert code == 0
        assert modules.isdisjoint({*HEAVY, "pydantic", "rich"})
        assert len(modules) <= MOST_FOR_HELP


def test_usage_errors_import_nothing_heavy(process_environment: Mapping[str, str]) -> None:
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
    code, modules = missing  # Typer converts arguments with pydantic
    assert code == 4
    assert modules.isdisjoint({*HEAVY, "rich", "dbbd_cli.config.sections"})
    code, modules = key
    assert code == 2
    assert modules.isdisjoint({*HEAVY, "rich"} - {"yaml"})  # the schema needs pydantic


def test_configuration_errors_import_no_pytorch(
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
        ["predict", run, "example.com", "--set", "trainig.epochs=3"],
        ["validate", run, "--device", "gpu"],
        ["resume", run, "--epochs", "0"],
        ["smoke", "--device", "gpu"],
        ["smoke", "--task", "no-such-task"],
    )
    assert [code for code, _ in answers] == [2] * 9
    assert answers[-1][1].isdisjoint({*HEAVY, "rich"} - {"yaml"})


def test_completion_imports_nothing_heavy(process_environment: Mapping[str, str]) -> None:
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
        # For shells that show help texts, Typer itself imports Rich.
        assert answers[-1][1].isdisjoint(HEAVY)
        assert {"dbbd_cli.config.sections"} <= answers[-1][1], "the keys come from the schema"


def test_plot_imports_no_pytorch(process_environment: Mapping[str, str], run_folder: Path) -> None:
    drawn, written = loaded_by(
        process_environment, ["plot", str(run_folder)], ["plot", str(run_folder), "--format=html"]
    )
    assert (drawn[0], written[0]) == (0, 0)
    assert list(run_folder.glob("*.png"))
    assert written[1].isdisjoint({"torch", "torchvision", "torchmetrics", "tensorboard", "scipy"})


def test_inspect_imports_no_pytorch(process_environment: Mapping[str, str], tmp_path: Path) -> None:
    settings = ["--set", "data.sample_per_class=30", "--set", f"data.cache_dir={tmp_path}"]
    [[code, modules]] = loaded_by(process_environment, ["inspect", "--config", "smoke_qr", *settings])
    assert code == 0
    assert modules.isdisjoint({"torch", "torchvision", "torchmetrics", "tensorboard", "matplotlib"})


def test_runs_as_a_module(process_environment: Mapping[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dbbd_cli", "--version"],
        env=process_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.startswith("dbbd ")
