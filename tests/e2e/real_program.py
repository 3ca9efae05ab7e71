"""Running the program as users do: in its own process, with real files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ONE_AFTER_ANOTHER = """
import json, pathlib, sys
from dbbd_cli.__main__ import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = [str(next(pathlib.Path("runs").iterdir())) if word == "RUN" else word for word in command]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    for stream in (sys.stdout, sys.stderr):
        print(f"END {code}", file=stream, flush=True)
"""


def environment() -> dict[str, str]:
    """Return an environment in which this checkout is imported."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start Python with arguments, in its own session."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        start_new_session=True,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def dbbd(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the program and check its exit code, and that it prints no traceback or control codes."""
    return _ended(start("-m", "dbbd_cli", *arguments, cwd=cwd), code)


def one_after_another(
    *commands: Sequence[str], cwd: Path, codes: Sequence[int] | None = None
) -> tuple[list[str], list[str]]:
    """Return what each command printed as output and as errors; in one process: starting PyTorch takes seconds.

    Args:
        commands: command lines; the word RUN stands for the folder in `runs`.
        cwd: the working directory.
        codes: their exit codes; 0 by default.
    """
    ended = _ended(start("-c", _ONE_AFTER_ANOTHER, json.dumps(commands), cwd=cwd), 0)
    outputs, errors = (re.split(r"END (\d+)\n", text) for text in (ended.stdout, ended.stderr))
    found = [int(code) for code in outputs[1::2]]
    assert found == list(codes or [0] * len(commands)), f"{found}\n{ended.stderr}"
    return outputs[:-1:2], errors[:-1:2]


def _ended(process: subprocess.Popen[str], code: int) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    assert not CONTROL.search(out + err), "control codes in a pipe"
    return subprocess.CompletedProcess(process.args, code, out, err)
