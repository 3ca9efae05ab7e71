"""Meet the other processes as one attempt of several to run a command.

Usage: python shared_meeting.py ATTEMPT FOLDER. In the attempt `killed`, all processes end without notice after
they have shared a folder; in the attempt `trained`, one of them cannot read its validation data. Each prints what
it has found.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.engine.processes import Processes, joined
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.runs.log import NoLog, RunLog
from unit.engine.line_workload import CPU, Line, LineWorkload, config

COMMAND = ["dbbd", "train"]


class UnreadableLine(Line):
    """Points of which none can be read."""

    def __getitems__(self, keys: list[Key]) -> tuple[object, ...]:  # type: ignore[override]
        raise DataError("a point cannot be read", hint="draw it again")


def failure(processes: Processes, folder: Path) -> list[object]:
    """What training raises in this process, and the batches that it has trained until then."""
    workload = LineWorkload()
    if processes.rank == 1:
        loader = BatchLoader(UnreadableLine(), batch_size=4, shuffle=False, seed=1)
        workload.loaders = {**workload.loaders, "val": loader}
    trainer = Trainer(workload, config(), CPU, processes=processes)
    log = RunLog(folder, step=0, history=[], command=[]) if processes.is_first else NoLog()
    run = Run(trainer, folder, log, Silent())
    run.stop.agree = processes.agreed
    try:
        fit(run)
    except DataError as error:
        return [str(error), error.hint, error.all_have_it, run.trainer.state.step]
    return []


def main() -> None:
    attempt, folder = sys.argv[1], Path(sys.argv[2])
    with joined(from_environment(os.environ), timeout=60) as processes:
        begun = [str(processes.begun_folder(command)) for command in (COMMAND, [*COMMAND, "--seed", "1"])]
        found: dict[str, object] = {"begun": begun, "pids": processes.everyone(os.getpid())}
        if attempt == "killed":
            processes.share_folder(folder, COMMAND)
            print(json.dumps(found), flush=True)  # noqa: T201
            os._exit(9)
        found["failure"] = failure(processes, folder)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
