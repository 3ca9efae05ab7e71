"""The errors that a user can meet, and the exit code of each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to the shell."""

    OK = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    CHECKPOINT = 4
    NOT_FINITE = 5
    DISK = 6
    IN_USE = 7
    INTERRUPTED = 130
    TERMINATED = 143


class DbbdError(Exception):
    """A mistake that the user can mend: printed as one short block, without a traceback.

    Args:
        message: what is wrong, and where (file, line, row).
        hint: what to do about it.
        details: one line per finding, where there are several.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = list(details)


class ConfigError(DbbdError):
    """The configuration or the command line cannot be used."""

    exit_code = ExitCode.USAGE


class DataError(DbbdError):
    """The data cannot be read, or is not what the configuration promises."""

    exit_code = ExitCode.DATA


class CheckpointError(DbbdError):
    """A checkpoint or run folder is missing, damaged or does not fit."""

    exit_code = ExitCode.CHECKPOINT


class NotFiniteError(DbbdError):
    """A loss or a gradient is NaN or infinite; the weights were not updated with it."""

    exit_code = ExitCode.NOT_FINITE


class DiskError(DbbdError):
    """The disk is full or cannot be written to."""

    exit_code = ExitCode.DISK


class InUseError(DbbdError):
    """Another process is working in the run folder."""

    exit_code = ExitCode.IN_USE


class StoppedError(DbbdError):
    """A signal asked the run to stop, and everything was saved."""

    def __init__(self, message: str, *, signal_number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = ExitCode(128 + signal_number)
