"""Limits that a shell sets (`ulimit`) end in a message that names them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TRAIN = (
    f"'{sys.executable}' -m dbbd_cli train --config smoke_qr --set data.sample_per_class=24 --set data.image_size=32 "
    "--epochs 1 --no-plots --device cpu --json"
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def limited(limit: str, folder: Path) -> tuple[int, dict[str, str]]:
    """The exit code of a training under a limit, and the error that it ended with."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DBBD_CACHE_DIR": str(folder / "cache")}
    line = f"ulimit {limit} && exec {TRAIN}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("kilobytes", "what"), [(16, "the cache"), (4000, "checkpoints are too large: they need about")]
)
def test_the_size_of_a_file(kilobytes: int, what: str, tmp_path: Path) -> None:
    code, error = limited(f"-f {kilobytes}", tmp_path)
    assert (code, error["kind"]) == (6, "disk")
    assert error["message"].startswith(what)
    assert error["hint"].startswith("raise the limit on the size of a file (ulimit -f)")
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_memory(tmp_path: Path) -> None:
    code, error = limited(f"-v {700_000}", tmp_path)
    assert (code, error["kind"]) == (2, "usage")
    assert error["message"].startswith("out of memory")
    assert error["hint"] == "this shell allows 717 MB of address space: raise it with ulimit -v"
