"""Figures are drawn whatever the environment is, and one failure does not affect the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dbbd_cli.core.errors import DiskError
from dbbd_cli.report.drawing import draw, message_of

SCRIPT = """
import os
before = dict(os.environ)
from dbbd_cli.report.drawing import load_matplotlib
load_matplotlib()
assert {**before, "MPLCONFIGDIR": 0} == {**os.environ, "MPLCONFIGDIR": 0}, "the environment is as it was"
from io import BytesIO
from dbbd_cli.report.save import render
from dbbd_cli.report.style import headed_figure, styled
with styled():
    print(len(render(headed_figure((4, 3), "Title", []), "png")) > 1000)
"""


def drawn_by(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The output of a process that draws a figure in a folder, with these environment variables."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(__file__).parents[3])}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MPL", "MATPLOTLIB", "XDG"))}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={**inherited, **own, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.none", "qtagg"])
def test_the_backend_of_the_environment_does_not_matter(backend: str, tmp_path: Path) -> None:
    done = drawn_by(tmp_path, MPLBACKEND=backend)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.skipif(os.name != "posix", reason="folders that cannot be made")
def test_an_unwritable_home_folder_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = drawn_by(tmp_path, HOME=str(tmp_path / "file" / "home"))
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_settings_file_that_matplotlib_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe: 1\n")
    done = drawn_by(tmp_path)
    assert "ConfigError: matplotlib cannot be loaded: UnicodeDecodeError: 'utf-8'" in done.stderr


def test_a_failure_does_not_affect_other_figures() -> None:
    def fails() -> Figure:
        raise ValueError("no axes")

    told: list[str] = []
    drawings = {"first": fails, "second": Figure}
    figures = draw(drawings, lambda name, error: told.append(f"{name}: {message_of(error)}"))
    assert (list(figures), told) == (["second"], ["first: ValueError: no axes"])
    with pytest.raises(ValueError, match="no axes"):
        draw(drawings)
    assert message_of(DiskError("the disk is full")) == "the disk is full"
