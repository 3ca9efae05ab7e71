"""Start the program several times, so that the processes train together, through PyTorch's elastic launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dbbd_cli.core.errors import ExitCode, ProcessError
from dbbd_cli.core.limits import usable_processors
from dbbd_cli.core.processes import NPROC
from dbbd_cli.core.signals import SECONDS_TO_SAVE, STOP_SIGNALS, exit_reason


def processes_of_machine(wanted: str) -> int:
    """How many processes to start; `auto`: one for each GPU, or else for each processor."""
    if wanted != "auto":
        return int(wanted)
    return torch.cuda.device_count() if torch.cuda.is_available() else usable_processors()


def launch(arguments: Sequence[str], num_processes: int) -> tuple[int, str]:
    """Run the command line in several processes on this machine.

    A signal to this process is passed on to all of them; after a second Ctrl-C, they are killed. If one fails, the
    others are ended.

    Args:
        arguments: the command line without the name of the program.
        num_processes: how many processes to start.

    Returns:
        The exit code, and which process was killed, or an empty string.

    Raises:
        ProcessError: a process was killed, and no other one is left to report that.
    """
    logging.disable()  # the processes report their errors themselves
    os.environ[NPROC] = str(num_processes)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    # As torchrun does, but with all processors: otherwise each process has a thread for each processor.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(usable_processors() // num_processes, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="localhost",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    config.signals_to_handle = ""  # it would give up waiting for the processes at the second signal
    # With this process's search path: unlike `-m`, this imports nothing from the current folder.
    program = f"import sys; sys.path[:] = {sys.path!r}; from dbbd_cli.__main__ import main; main()"
    with _passing_on_signals() as received:
        try:
            words = (word.replace("$", "$$") for word in (program, *arguments))  # it replaces variables
            elastic_launch(config, sys.executable)("-c", *words)
        except ChildFailedError as error:
            if not received:
                return _ended({rank: failure.exitcode for rank, failure in error.failures.items()})
        except Exception:  # a signal may have interrupted anything
            if not received:
                raise
    return 128 + received[0] if received else ExitCode.OK, ""


@contextmanager
def _passing_on_signals() -> Iterator[list[int]]:
    """Let the first signal interrupt PyTorch's launcher, which passes it on, and a second Ctrl-C kill the processes.

    Yields:
        The number of the first signal, once it has come.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise SignalException(f"received {number}", signal.Signals(number))
        if number == signal.SIGINT:
            _kill_children()

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handle)
    try:
        yield received
    finally:
        _kill_children()  # a signal while PyTorch starts them makes it forget them


def _kill_children() -> None:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            child.kill()


def _ended(codes: Mapping[int, int]) -> tuple[int, str]:
    """The exit code of the first process that failed for a reason of its own, and whether it was killed.

    Args:
        codes: exit codes by rank, in the order in which PyTorch has noticed them. It then ends the others by SIGTERM.

    Raises:
        ProcessError: it was killed, and no other one is left to report that.
    """
    first = next(iter(codes))
    ended = (-signal.SIGTERM, ExitCode.TERMINATED)
    for rank, code in codes.items():
        if code == ExitCode.PROCESS or (rank != first and code in ended):
            continue
        if code >= 0:
            return code, ""
        killed = f"process {rank + 1} was ended by {exit_reason(code)}"
        if codes.get(0, 0) < 0 and ExitCode.PROCESS not in codes.values():
            raise ProcessError(killed)
        return ExitCode.PROCESS, killed
    return ExitCode.PROCESS, ""
