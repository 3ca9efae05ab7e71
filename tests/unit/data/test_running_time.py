"""Time limits end what takes too long, and do not count the time in which the process is suspended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dbbd_cli.data import running_time
from dbbd_cli.data.running_time import LateError, RunningTime, alarm


class Clock:
    """Replaces the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running_time, "time", clock)
    return clock


def test_time_adds_up_in_ticks(clock: Clock) -> None:
    running = RunningTime(5.0)
    for _ in range(9):
        clock.now += running.tick
        assert not running.over()
    clock.now += running.tick
    assert running.over()


def test_a_gap_due_to_suspension_does_not_count(clock: Clock) -> None:
    running = RunningTime(600.0)
    for _ in range(20):
        clock.now += 10_000
        assert not running.over()
    clock.now += 600
    assert not running.over()


needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no SIGALRM")


@needs_alarm
def test_only_a_body_that_takes_too_long_is_interrupted() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(LateError), alarm(0.2):
        time.sleep(600)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with alarm(600):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@needs_alarm
def test_a_process_suspended_for_longer_than_the_limit_continues() -> None:
    limit = 3.0  # seconds, of which it runs for a moment only
    code = f"""
import sys
from dbbd_cli.data.running_time import alarm
with alarm({limit}):
    print("waits", flush=True)
    sys.stdin.readline()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(limit + 1)
        os.kill(process.pid, signal.SIGCONT)
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
