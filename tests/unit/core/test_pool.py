"""Worker processes end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from dbbd_cli.core.pool import worker_pool


def blas_threads() -> str | None:
    return os.environ.get("OPENBLAS_NUM_THREADS")


def test_processes_that_are_busy_are_killed_if_the_body_raises() -> None:
    def interrupted() -> None:
        with worker_pool(2) as pool:
            pool.submit(os.getpid).result()
            for _ in range(4):
                pool.submit(time.sleep, 600)
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 300
    assert active_children() == []


def test_a_process_uses_one_thread_for_linear_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with worker_pool(1) as pool:
        assert pool.submit(blas_threads).result() == "1"
    assert blas_threads() is None


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from dbbd_cli.core.pool import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 600).result()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=60)
