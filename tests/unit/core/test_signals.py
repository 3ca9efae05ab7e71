"""A signal stops a run where it can be saved, and a process that ended says how."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dbbd_cli.core.progress import Silent
from dbbd_cli.core.signals import StopRequest, StopRequestedError, exit_reason, stop_on_signals


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(9)", "exit code 9"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMAX - 3)", "signal 61"),
    ],
)
def test_how_a_process_ended(code: str, reason: str) -> None:
    if "SIGRTMAX" in code and sys.platform != "linux":
        pytest.skip("no real-time signals")
    assert exit_reason(subprocess.run([sys.executable, "-c", code]).returncode) == reason


def test_a_signal_during_a_step_waits_for_the_next_check() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(Silent()) as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        with pytest.raises(StopRequestedError):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_while_a_batch_is_awaited_stops_at_once() -> None:
    made = []

    def batches() -> Iterator[int]:
        for number in range(5):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
            made.append(number)
            yield number

    with stop_on_signals(Silent()) as stop:
        awaited = stop.interruptible(batches())
        assert [next(awaited), next(awaited)] == [0, 1]
        with pytest.raises(StopRequestedError):
            next(awaited)
    assert made == [0, 1]


def test_without_a_signal_all_batches_come() -> None:
    assert list(StopRequest().interruptible(iter([1, 2, 3]))) == [1, 2, 3]


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with stop_on_signals(Silent()) as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop
