"""Find the run to continue after torchrun has restarted the processes of `train`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from dbbd_cli.core.files import read_file
from dbbd_cli.runs.folder import ENVIRONMENT, is_run_folder


def interrupted_run(runs_dir: Path, command: Sequence[str]) -> Path | None:
    """The run that an earlier attempt of the same job has begun; None if this is the first, or it had begun none.

    Args:
        runs_dir: where runs are.
        command: the command line.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0 or not runs_dir.is_dir():
        return None
    # torchrun has started this process, and also that of the attempt before.
    since = psutil.Process(os.getppid()).create_time()
    for folder in sorted(runs_dir.iterdir(), reverse=True):  # names begin with the time
        if is_run_folder(folder) and _was_begun(folder / ENVIRONMENT, command, since):
            return folder
    return None


def _was_begun(environment: Path, command: Sequence[str], since: float) -> bool:
    """Whether a run was begun by this command of the same job since then."""
    try:
        found = json.loads(read_file(environment))
        return (
            environment.stat().st_mtime >= since
            and found["command"] == list(command)
            and found["launch"] == os.environ["TORCHELASTIC_RUN_ID"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
