"""Each error has the exit code that the documentation promises, and its kind in one word."""

from __future__ import annotations

import signal

import pytest

from dbbd_cli.core import errors


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (errors.ConfigError, 2, "usage"),
        (errors.DataError, 3, "data"),
        (errors.CheckpointError, 4, "checkpoint"),
        (errors.NotFiniteError, 5, "not_finite"),
        (errors.DiskError, 6, "disk"),
        (errors.InUseError, 7, "in_use"),
    ],
)
def test_codes_and_kinds(error: type[errors.DbbdError], code: int, kind: str) -> None:
    raised = error("message", hint="hint", details=("a", "b"))
    assert (raised.exit_code, raised.kind) == (code, kind)
    assert (str(raised), raised.hint, raised.details) == ("message", "hint", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGUSR1", "user_signal"), ("SIGHUP", "hangup")],
)
def test_a_stopped_program_has_the_code_of_its_signal(name: str, kind: str) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} on this system")
    number = getattr(signal, name)
    stopped = errors.StoppedError("Stopped", signal_number=number)
    assert (stopped.exit_code, stopped.kind) == (128 + number, kind)
