"""Experiments on what the program promises: a short form in every test run, the full count with `make reliability`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from forks import Forks
    from processes import Place
    from stored_runs import StoredRuns

FULL = os.environ.get("DBBD_RELIABILITY") == "full"


@pytest.fixture
def count() -> Callable[[int, int], int]:
    """Picks how often an experiment is made: `count(short, full)`."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes the result of an experiment in words, for the table at the end."""
    return lambda result: request.node.user_properties.append(("reliability", result))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs the program in copies of a process that has loaded it already."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    from forks import Forks

    with Forks() as started:
        yield started


@pytest.fixture(scope="session")
def stored_runs(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> StoredRuns:
    """Small runs that are made once."""
    from stored_runs import StoredRuns

    return StoredRuns(forks, tmp_path_factory.mktemp("stored"))


@pytest.fixture
def place(forks: Forks) -> Iterator[Place]:
    """A folder to run the program in, with caches and temporary files of its own."""
    from processes import new_place

    with new_place(forks) as place:
        yield place


@pytest.fixture(scope="session")
def uninterrupted(forks: Forks) -> Iterator[Callable[..., Path]]:
    """Trains without any interruption: gives the run folder for options of `train`, made once in a session."""
    from processes import new_place

    made: dict[tuple[str, ...], Path] = {}
    with ExitStack() as stack:

        def train(*options: str) -> Path:
            if options not in made:
                place = stack.enter_context(new_place(forks))
                place.complete("train", *options)
                made[options] = place.run
            return made[options]

        yield train


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Shows what each experiment found."""
    findings = [
        (result.nodeid.split("::")[-1], value)
        for outcome in ("passed", "failed")
        for result in terminalreporter.stats.get(outcome, [])
        for name, value in result.user_properties
        if name == "reliability"
    ]
    if findings:
        terminalreporter.section("what was found")
        for name, value in findings:
            terminalreporter.write_line(f"{name}: {value}")
