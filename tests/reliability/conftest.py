"""Fixtures for experiments on what the program promises: short in every test run, in full with `make reliability`."""

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
    """Select the size of an experiment: `count(short, full)`."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record the result of an experiment, in words, for the summary at the end."""
    return lambda result: request.node.user_properties.append(("reliability", result))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Run the program in copies of a process that has already imported it."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    from forks import Forks

    with Forks() as started:
        yield started


@pytest.fixture(scope="session")
def stored_runs(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> StoredRuns:
    """Small runs, created once per session."""
    from stored_runs import StoredRuns

    return StoredRuns(forks, tmp_path_factory.mktemp("stored"))


@pytest.fixture
def place(forks: Forks) -> Iterator[Place]:
    """A folder to run the program in, with its own cache and temporary files."""
    from processes import new_place

    with new_place(forks) as place:
        yield place


@pytest.fixture(scope="session")
def uninterrupted(forks: Forks) -> Iterator[Callable[..., Path]]:
    """Return the folder of an uninterrupted run for options of `train`, created once per session."""
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
    """Show the result of each experiment."""
    results = [
        (outcome_report.nodeid.split("::")[-1], value)
        for outcome in ("passed", "failed")
        for outcome_report in terminalreporter.stats.get(outcome, [])
        for name, value in outcome_report.user_properties
        if name == "reliability"
    ]
    if results:
        terminalreporter.section("results of the experiments")
        for name, value in results:
            terminalreporter.write_line(f"{name}: {value}")
