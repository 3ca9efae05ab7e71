"""Every error ends as a short block on standard error, an object on standard output with --json, and its exit code."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbd_cli.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DbbdError,
    DiskError,
    InUseError,
    NotFiniteError,
    StoppedError,
)

Run = Callable[..., Any]
TRAIN = ("train", "--config", "smoke_qr")


def test_an_error_is_printed_as_a_block(run: Run, fake_service: Run) -> None:
    fake_service("train", train=DataError("2 files cannot be read", hint="remove them", details=["a.png", "b.png"]))
    result = run(*TRAIN)
    assert result.stderr == "Error: 2 files cannot be read\n  a.png\n  b.png\nRemove them\n"
    assert result.stdout == ""
    assert result.exit_code == 3


@pytest.mark.parametrize(
    ("hint", "shown"),
    [("check it: data.path", "Check it: data.path"), ("splits.json was edited", "splits.json was edited")],
)
def test_a_hint_begins_with_a_capital_unless_a_name_comes_first(
    hint: str, shown: str, run: Run, fake_service: Run
) -> None:
    fake_service("train", train=DataError("x", hint=hint))
    assert run(*TRAIN).stderr == f"Error: x\n{shown}\n"


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (ConfigError("x"), 2, "usage"),
        (DataError("x"), 3, "data"),
        (CheckpointError("x"), 4, "checkpoint"),
        (NotFiniteError("x"), 5, "not_finite"),
        (DiskError("x"), 6, "disk"),
        (InUseError("x"), 7, "in_use"),
        (StoppedError("Stopped x", signal_number=signal.SIGINT), 130, "interrupted"),
        (StoppedError("Stopped x", signal_number=signal.SIGTERM), 143, "terminated"),
        (DbbdError("x"), 1, "bug"),
    ],
)
def test_exit_codes(error: DbbdError, code: int, kind: str, run: Run, fake_service: Run) -> None:
    fake_service("train", train=error)
    result = run(*TRAIN, "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)["error"]["kind"] == kind
    assert result.stderr in ("Error: x\n", "Stopped x\n")


def test_an_error_is_printed_as_json(run: Run, fake_service: Run) -> None:
    fake_service("train", train=DataError("what", hint="do", details=["one"]))
    result = run(*TRAIN, "--json")
    expected = {"kind": "data", "message": "what", "details": ["one"], "hint": "do", "exit_code": 3}
    assert json.loads(result.stdout) == {"error": expected}
    assert result.stderr == "Error: what\n  one\nDo\n"


def test_a_usage_error_is_printed_as_json(run: Run) -> None:
    result = run("train", "--json", "--epohcs", "3")
    assert result.exit_code == 2
    assert "--epohcs" in json.loads(result.stdout)["error"]["message"]
    assert "dbbd train --help" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("trian",), ("train",), ("--bogus",), ("train", "--epochs", "x"), ("evaluate", ".", "--split", "x")]
)
def test_usage_errors(arguments: tuple[str, ...], run: Run) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "Value error" not in result.stderr
    assert result.stdout == ""


def test_no_arguments_show_the_help(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stdout.startswith("Usage: dbbd")


def test_an_unexpected_exception_is_reported_as_a_bug(run: Run, fake_service: Run) -> None:
    fake_service("train", train=ZeroDivisionError("division by zero"))
    result = run(*TRAIN)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: this is a bug: please report it (ZeroDivisionError: division by zero)\n")
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bug_in_the_package_of_a_task_is_for_its_authors(
    run: Run, fake_service: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.tasks.registry.package_behind", lambda error: f"other {error}")
    fake_service("train", train=ZeroDivisionError("1.0"))
    message = "this is a bug in other 1.0, which provides the task: please report it there (ZeroDivisionError: 1.0)"
    assert run(*TRAIN).stderr.startswith(f"Error: {message}\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), DataError("x")])
def test_debug_shows_the_traceback(error: Exception, run: Run, fake_service: Run) -> None:
    fake_service("train", train=error)
    assert "Traceback (most recent call last)" in run(*TRAIN, "--debug").stderr


def test_ctrl_c_outside_training(run: Run, fake_service: Run) -> None:
    fake_service("train", train=KeyboardInterrupt())
    result = run(*TRAIN)
    assert result.exit_code == 130
    assert result.stderr == "Stopped.\n"


def test_control_codes_in_names_are_escaped(run: Run, fake_service: Run) -> None:
    fake_service("train", train=DataError("bad \x1b[31mname", details=["\x9b2J.png", "[red]x[/red]"]))
    assert run(*TRAIN).stderr == "Error: bad \\x1b[31mname\n  \\x9b2J.png\n  [red]x[/red]\n"


def test_a_missing_run_is_answered_with_a_similar_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "20260131-120000-qr"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    result = run("resume", "runs/20260131-120000-qq")
    assert result.exit_code == 4
    assert str(Path("runs", "20260131-120000-qr")) in result.stderr
    assert "20260131-120000-qr" in run("resume", "elsewhere").stderr


def test_a_misspelled_key_is_answered_with_the_right_one(run: Run) -> None:
    result = run("train", "--config", "qr_cnn", "--set", "trainig.epochs=3")
    assert result.exit_code == 2
    assert "trainig" in result.stderr
    assert "training" in result.stderr
