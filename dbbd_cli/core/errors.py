"""Errors for the user, each with its exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the program."""

    OK = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    CHECKPOINT = 4
    NOT_FINITE = 5
    DISK = 6
    IN_USE = 7
    PROCESS = 8
    HANGUP = 129
    INTERRUPTED = 130
    USER_SIGNAL = 138
    TERMINATED = 143


class DbbdError(Exception):
    """An error that the user can fix: printed as one short block, without a traceback.

    Args:
        message: what is wrong, and where (file, line, row).
        hint: what to do about it, as a phrase that begins in lower case and has no final period.
        details: one line per problem, if there are several.
        all_have_it: whether all of the processes that train together raise it, so that one of them reports it.
    """

    exit_code: int = ExitCode.BUG
    all_have_it: bool = False

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = (), all_have_it: bool = False) -> None:
        super().__init__(message)
        self.all_have_it |= all_have_it
        self.message = message
        self.hint = hint
        self.details = list(details)

    @property
    def kind(self) -> str:
        """The kind of error in one word."""
        return ExitCode(self.exit_code).name.lower()


class ConfigError(DbbdError):
    """The configuration or the command line is invalid."""

    exit_code = ExitCode.USAGE


class DataError(DbbdError):
    """The data cannot be read, or does not match the configuration."""

    exit_code = ExitCode.DATA


class CheckpointError(DbbdError):
    """A checkpoint or run folder is missing or damaged, or does not match the configuration."""

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


class ProcessError(DbbdError):
    """Another of the processes that train together has ended, or does not answer."""

    exit_code = ExitCode.PROCESS
    all_have_it = True


class StoppedError(DbbdError):
    """The program was stopped by a signal; the message begins with "Stopped" and says what was saved."""

    all_have_it = True

    def __init__(self, message: str, *, signal_number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    @property
    def kind(self) -> str:
        """The signal in one word."""
        # By name: the number of SIGUSR1 differs between systems.
        name = signal.Signals(self.signal_number).name
        return {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGUSR1": "user_signal", "SIGHUP": "hangup"}.get(
            name, name.lower()
        )


def reason_of(error: BaseException) -> str:
    """The first line of an error, or its type if it has no message."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
