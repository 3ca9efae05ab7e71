"""The numeric tests run in the environments of other processors, and a failing environment is named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import processors
import pytest

QUICK_TESTS = (
    "tests/unit/model/dbbd/test_pretraining.py::test_golden_files",
    "tests/unit/data/scenes/test_views.py",
)


def test_some_numeric_tests_pass_as_on_another_processor(tmp_path: Path) -> None:
    done = processors.run_tests("all-avx2", [*QUICK_TESTS, f"--basetemp={tmp_path / 'nested'}"])
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("broken", ["", "mkl-avx2"])
def test_an_environment_that_fails_is_named(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_tests(environment: str, tests: list[str]) -> subprocess.CompletedProcess[str]:
        assert tests[-2:] == ["-n", "auto"]
        failed = environment == broken
        return subprocess.CompletedProcess([], int(failed), "FAILED test_x" if failed else "3 passed", "")

    monkeypatch.setattr(processors, "run_tests", run_tests)
    monkeypatch.setattr("sys.argv", ["processors.py", "-n", "auto", "--only", "as-is mkl-avx2"])
    assert processors.main() == int(bool(broken))
    output = capsys.readouterr().out
    assert ("Failed in: mkl-avx2" in output) == bool(broken)
    assert f"{1 if broken else 2} of 2 environments passed" in output


def test_all_numeric_tests_exist() -> None:
    assert all((processors.REPOSITORY / path).exists() for path in processors.NUMERIC_TESTS)
