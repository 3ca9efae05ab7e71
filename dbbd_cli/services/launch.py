"""Start the program several times, so that the processes train together, through PyTorch's elastic launcher."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dbbd_cli.core.errors import ExitCode, ProcessError
from dbbd_cli.core.signals import STOP_SIGNALS, exit_reason

_SECONDS_TO_SAVE = 600
"""How long a process may take to end after a signal, before it is killed."""


def processes_of_machine(wanted: str) -> int:
    """How many processes to start; `auto`: one for each GPU, or else for each processor."""
    if wanted != "auto":
        return int(wanted)
    return torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Run the command line in several processes on this machine; return the exit code.

    A signal to this process is passed on to all of them. If one fails, the others are ended.

    Args:
        arguments: the command line without the name of the program.
        num_processes: how many processes to start.

    Raises:
        ProcessError: a process was killed.
    """
    logging.disable()  # the processes report their errors themselves
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = signals = ",".join(number.name for number in STOP_SIGNALS)
    # As torchrun does, but with all processors: otherwise each process has a thread for each processor.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // num_processes, 1)))
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        config.signals_to_handle = signals
        try:
            elastic_launch(config, sys.executable)("-m", "dbbd_cli", *arguments)
        except SignalException as error:
            return 128 + error.sigval
        except ChildFailedError as error:
            return _exit_code({rank: failure.exitcode for rank, failure in error.failures.items()})
    return ExitCode.OK


def _exit_code(found: dict[int, int]) -> int:
    """The exit code of the first process that failed for a reason of its own."""
    for rank, code in sorted(found.items()):
        if code < 0:
            raise ProcessError(f"process {rank + 1} was ended by {exit_reason(code)}")
    own = [code for _, code in sorted(found.items()) if code != ExitCode.PROCESS]
    return own[0] if own else ExitCode.PROCESS
