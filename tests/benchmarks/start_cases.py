"""Start-up: the time to help, a completion, a configuration error, or the first training step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import Measured, alternately, median, peak_mb_of_children, seconds_of, spread

RUNS = 9
"""Starting takes a fraction of a second, so more runs are affordable."""
DBBD = (sys.executable, "-m", "dbbd_cli")
FIRST_STEP = Path(__file__).resolve().parent / "first_step.py"
BARE = """
import typer

app = typer.Typer()


@app.command()
def one(path: str, number: int = typer.Option(1, help="A number.")) -> None:
    "Do something."


{commands}

app()
"""


def start(repeat: int, arguments: Sequence[str] = (), complete: str | None = None, exit_code: int = 0) -> Measured:
    """Measure a command that computes nothing, relative to the help of a bare Typer program with six commands.

    Args:
        repeat: minimum number of runs of both, alternately.
        arguments: the command line.
        complete: instead of a command line, the words for shell completion, one per line.
        exit_code: the expected exit code.
    """
    folder = Path(tempfile.mkdtemp())
    environment = dict(os.environ)
    if complete is not None:
        last = len(complete.splitlines()) - 1
        environment |= {"_DBBD_COMPLETE": "complete_bash", "COMP_WORDS": complete, "COMP_CWORD": str(last)}
    without_torch([*DBBD, *arguments], folder, environment, exit_code)
    memory = peak_mb_of_children()
    bare = folder / "bare.py"
    bare.write_text(_bare_program(), encoding="utf-8")
    assert "six" in _call([sys.executable, str(bare), "--help"], folder, dict(os.environ)).stdout
    own, other = alternately(
        [
            lambda: seconds_of(lambda: _call([*DBBD, *arguments], folder, environment)),
            lambda: seconds_of(lambda: _call([sys.executable, str(bare), "--help"], folder, dict(os.environ))),
        ],
        max(repeat, RUNS),
    )
    return Measured(
        seconds=median(own),
        score=median(own) / median(other),
        spread=spread([a / b for a, b in zip(own, other, strict=True)]),
        reference={"typer_seconds": median(other)},
        peak_mb=memory,
    )


def plot(repeat: int) -> Measured:
    """Measure `dbbd plot` of a run with two short epochs."""
    folder = Path(tempfile.mkdtemp())
    settings = {
        "data.sample_per_class": 10,
        "data.image_size": 32,
        "training.batch_size": 8,
        "training.optimizer": "sgd",
        "training.epochs": 2,
        "run.plots": "false",
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    training = _call([*DBBD, "train", "--config", "smoke_qr", "--quiet", *options], folder, dict(os.environ))
    assert training.returncode == 0, training.stderr
    (run,) = (folder / "runs").iterdir()
    command = [*DBBD, "plot", str(run)]
    without_torch(command, folder, dict(os.environ), 0)
    (seconds,) = alternately([lambda: seconds_of(lambda: _call(command, folder, dict(os.environ)))], repeat, warm_up=0)
    # The system reports only the maximum over all children, and the training run needed more.
    return Measured(seconds=median(seconds), score=median(seconds), spread=spread(seconds), peak_mb=None)


def smoke_first_step(repeat: int) -> Measured:
    """Measure from the start of `dbbd smoke --epochs 1` to the end of the optimizer's first step."""
    folder = Path(tempfile.mkdtemp())

    def first_step() -> float:
        started = time.time()
        process = subprocess.run(
            [sys.executable, str(FIRST_STEP), "smoke", "--epochs", "1", "--progress", "none"],
            cwd=folder, env=dict(os.environ), capture_output=True, text=True,
        )  # fmt: skip
        ended = re.search(r"^first step at ([\d.]+)$", process.stderr, re.MULTILINE)
        assert ended, process.stderr
        return float(ended[1]) - started

    (seconds,) = alternately([first_step], repeat, warm_up=1)
    return Measured(
        seconds=median(seconds), score=median(seconds), spread=spread(seconds), peak_mb=peak_mb_of_children()
    )


def without_torch(command: Sequence[str], folder: Path, environment: dict[str, str], exit_code: int) -> None:
    """Run a command once; fail if its exit code is unexpected or it imports PyTorch."""
    process = _call(command, folder, {**environment, "PYTHONPROFILEIMPORTTIME": "1"})
    assert process.returncode == exit_code, f"exit code {process.returncode}: {process.stderr[-300:]}"
    imported = re.findall(r"^import time:.*\| +(\S+)$", process.stderr, re.MULTILINE)
    assert "typer" in imported, "the list of imported modules could not be read"
    assert "torch" not in imported, f"{' '.join(command[3:])} imports torch"


def _call(command: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")


def _bare_program() -> str:
    first = BARE[BARE.index("@app") : BARE.index("{commands}")]
    others = "\n".join(first.replace("def one", f"def {name}") for name in ("two", "three", "four", "five", "six"))
    return BARE.replace("{commands}", others)
