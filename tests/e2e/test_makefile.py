"""The ways in for people and for continuous integration, with stand-ins for what would install gigabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> calls\n'

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not shutil.which("make") or not shutil.which("bash"), reason="needs make and bash"
)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    # These tests may themselves be run by make.
    unwanted = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "TORCH", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    path = f"{folder / 'programs'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile in a folder whose .venv holds stand-ins that note in `calls` how they are called."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in ("pyproject.toml", ".venv/made"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("python", "dbbd"):
        program(tmp_path / ".venv" / "bin" / name, STAND_IN)
    return tmp_path


def stamps(project: Path) -> list[str]:
    return sorted(path.name for path in (project / ".venv").glob("torch-*"))


@pytest.mark.parametrize(("first", "kept"), [([], "default"), (["TORCH=default"], "default"), (["TORCH=cpu"], "cpu")])
def test_a_choice_of_pytorch_is_kept(first: list[str], kept: str, project: Path) -> None:
    assert run(project, "make", "smoke", *first).returncode == 0
    assert stamps(project) == [f"torch-{kept}"]
    installs = [line for line in (project / "calls").read_text().splitlines() if "--index-url" in line]
    assert len(installs) == (kept == "cpu")
    (project / "calls").unlink()

    for again in ([], ["TORCH="], [f"TORCH={kept}"]):
        result = run(project, "make", "test", *again)
        assert (result.returncode, result.stderr) == (0, "")
        assert stamps(project) == [f"torch-{kept}"]
    calls = (project / "calls").read_text()
    assert "--index-url" not in calls
    assert calls.count("pip install") == 1  # the test tools
    assert calls.count("pytest") == 3


@pytest.mark.parametrize(("there", "wanted"), [("default", "cpu"), ("cpu", "default")])
def test_another_choice_of_pytorch_needs_a_clean_start(there: str, wanted: str, project: Path) -> None:
    assert run(project, "make", "smoke", f"TORCH={there}").returncode == 0
    (project / "calls").unlink()
    for target in ("smoke", "test"):
        result = run(project, "make", target, f"TORCH={wanted}")
        assert result.returncode == 2
        assert "make clean" in result.stderr
        assert f"TORCH={there}" in result.stderr
        assert not (project / "calls").exists()
    assert stamps(project) == [f"torch-{there}"]
    assert run(project, "make", "clean", f"TORCH={wanted}").returncode == 0
    assert not (project / ".venv").exists()


def test_an_unknown_choice_of_pytorch_is_told_before_anything_is_made(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    result = run(project, "make", "smoke", "TORCH=gpu")
    assert result.returncode == 2
    assert "unknown TORCH=gpu" in result.stderr
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("there_before", [True, False])
def test_continuous_integration_deletes_only_the_environment_that_it_made(there_before: bool, tmp_path: Path) -> None:
    script = REPOSITORY / ".ci" / "run"
    if not script.exists():
        pytest.skip("not part of the source distribution")
    program(tmp_path / ".ci" / "run", script.read_text())
    program(tmp_path / "programs" / "make", f"{STAND_IN}mkdir -p .venv\n")
    program(tmp_path / "programs" / "id", "#!/bin/sh\necho 1000\n")  # so that nothing is installed on the system
    if there_before:
        (tmp_path / ".venv").mkdir()
    result = run(tmp_path, str(tmp_path / ".ci" / "run"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "calls").read_text() == "make check\nmake test\n"
    assert (tmp_path / ".venv").exists() is there_before


def test_numeric_tests_run_in_the_environments_that_are_named(project: Path) -> None:
    assert run(project, "make", "test-processors", "ONLY=as-is threads-2").returncode == 0
    calls = (project / "calls").read_text().splitlines()
    assert calls[-1] == "python tests/processors.py -n auto --only as-is threads-2"
