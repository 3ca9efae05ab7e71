"""If shared memory or open files are too few for the data workers, the run ends and names the limit."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from program import TINY, environment

if sys.platform != "linux":
    pytest.skip("needs Linux: other systems have no /dev/shm", allow_module_level=True)

from processes import FULL

TRAIN = ["train", *TINY["dbbd"], "--set", "data.num_workers=1", "--set", "data.worker_timeout=300"]


@cache
def why_no_mounts() -> str:
    """Return why /dev/shm cannot be replaced in a separate namespace; empty if it can."""
    command = ["unshare", "-U", "--map-root-user", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    try:
        tried = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        return "needs unshare"
    return "" if tried.returncode == 0 else "mounting in a namespace is not allowed here"


def run_in_shell(script: str, folder: Path, *, namespace: bool) -> tuple[int, str]:
    """Run a script whose arguments are `dbbd train OPTIONS`; return the exit code and the output as one line."""
    if namespace and why_no_mounts():
        pytest.skip(why_no_mounts())
    unshare = ["unshare", "-U", "--map-root-user", "-m"] if namespace else []
    done = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", sys.executable, "-m", "dbbd_cli", *TRAIN],
        cwd=folder,
        env=environment(DBBD_CACHE_DIR=str(folder / "cache"), PYTHONPATH=str(Path(__file__).parents[2])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, " ".join(done.stderr.split())


def test_too_little_shared_memory_is_reported_before_the_first_step(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=200k tmpfs /dev/shm; exec "$@"'
    code, output = run_in_shell(mounted, tmp_path, namespace=True)
    assert code == 3, output
    assert "Error: /dev/shm has 0.2 MB free" in output
    assert "--shm-size" in output
    assert "data.num_workers=0" in output
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "history.jsonl").read_text()
    assert f"dbbd resume runs/{run.name}" in output


def test_shared_memory_that_fills_up_later_is_reported(tmp_path: Path) -> None:
    script = """
mount -t tmpfs -o size=8m tmpfs /dev/shm
"$@" --epochs 100000 &
until test -e runs/*/best_model.pth || ! kill -0 $!; do sleep 0.05; done
i=0
while kill -0 $!; do i=$((i + 1)); dd if=/dev/zero of=/dev/shm/other-$i bs=16k; done 2> /dev/null
wait $!
"""
    code, output = run_in_shell(script, tmp_path, namespace=True)
    assert code == 3, output
    assert "cannot be written to /dev/shm, which has 0.0 MB free: No space left on device" in output
    assert "dbbd resume" in output


def test_unwritable_shared_memory_is_reported(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o ro tmpfs /dev/shm; exec "$@"'
    code, output = run_in_shell(mounted, tmp_path, namespace=True)
    assert code == 3, output
    assert "data workers need shared memory" in output
    assert "/dev/shm is not writable" in output


@pytest.mark.parametrize("limit", range(12, 65, 4) if FULL else [16])
def test_a_low_limit_on_open_files_is_reported(limit: int, tmp_path: Path) -> None:
    code, output = run_in_shell(f'ulimit -n {limit}; exec "$@" --epochs 1', tmp_path, namespace=False)
    assert code == 0 or (code in (3, 6) and f"(ulimit -n, {limit} now)" in output), (code, output)
