"""Failures of the machine or of PyTorch that users can fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.limits import is_out_of_memory, memory_advice
from dbbd_cli.engine.processes import reporting_lost_processes
from dbbd_cli.engine.workload import Workload


@contextmanager
def supervised(workload: Workload) -> Iterator[None]:
    """Turn errors of PyTorch that users can cause into errors that say what to do, and end worker processes.

    Args:
        workload: its loaders are closed at the end; it knows how to save memory.

    Raises:
        ConfigError: a batch does not fit into memory, or is too small for the network.
        ProcessError: another of the processes that train together has ended, or does not answer.
    """
    try:
        with reporting_lost_processes():
            yield
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            hint = f"{workload.out_of_memory_hint}; or {memory_advice()}"
            raise ConfigError("out of memory: a batch does not fit", hint=hint) from error
        raise
    except ValueError as error:
        if "Expected more than 1 value per channel" in str(error):
            raise ConfigError(
                "a batch of one sample is too small for the batch normalization of this network at this input size",
                hint="choose another training.batch_size, so that the last batch of an epoch has two samples or more",
            ) from error
        raise
    finally:
        for loader in workload.loaders.values():
            loader.close()
