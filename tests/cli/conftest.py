"""Fixtures of the command-line tests: run the program in this process or in another one, with stand-in services."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import dbbd_cli.services
from dbbd_cli.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every test independent of the terminal in which the tests are run."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "_DBBD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command line in this process."""

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return invoke


@pytest.fixture
def fake_service(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Replace a service module by functions with given results; returns the list that collects all calls."""

    def replace(module: str, **results: object) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def stand_in(name: str, result: object) -> Callable[..., object]:
            def call(*positional: object, **keywords: object) -> object:
                calls.append({"function": name, "positional": positional, **keywords})
                if isinstance(result, BaseException):
                    raise result
                return result

            return call

        fake = SimpleNamespace(**{name: stand_in(name, result) for name, result in results.items()})
        monkeypatch.setitem(sys.modules, f"dbbd_cli.services.{module}", fake)
        monkeypatch.setattr(dbbd_cli.services, module, fake, raising=False)
        return calls

    return replace


@pytest.fixture(scope="session")
def process_environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment for child processes: `dbbd` of this checkout on the PATH, and an empty home folder."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "dbbd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dbbd_cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "_DBBD_COMPLETE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {
        **kept,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path_factory.mktemp("home")),
        "TERM": "xterm",
    }
