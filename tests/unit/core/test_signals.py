from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dbbd_cli.core.signals import exit_reason


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
