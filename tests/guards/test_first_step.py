"""The first step of a run is reached without importing anything it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

UNWANTED = (
    "torch._dynamo", "torch._inductor", "sympy", "triton", "tensorboard", "google.protobuf", "fsspec", "matplotlib",
    "torchvision", "torchmetrics", "scipy.stats",
)  # fmt: skip

# Runs the command line up to the first step of the optimizer, and prints what is loaded beyond PyTorch by then.
SCRIPT = """
import json, os, sys
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
before = set(sys.modules)
def stop(*_):
    print(json.dumps(sorted(set(sys.modules) - before)), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(stop)
from dbbd_cli.cli.app import app
app(sys.argv[1:], prog_name="dbbd")
"""

SMALL = ("--no-plots", "--set", "run.device=cpu", "--set", "training.epochs=1")


@pytest.mark.parametrize(
    "command",
    [
        ("smoke", "--task", "dbbd", "--device", "cpu"),
        ("train", "--config", "smoke_qr", "--set", "data.sample_per_class=20", *SMALL),
        ("train", "--config", "smoke_dbbd", "--set", "training.optimizer=sgd", *SMALL),
    ],
    ids=["smoke", "images", "scenes"],
)
def test_the_first_step_imports_nothing_it_does_not_need(command: tuple[str, ...], tmp_path: Path) -> None:
    """PyTorch's compiler above all: it takes as long to load as PyTorch, see `engine/eager_optimizer.py`."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command, "--runs-dir", "runs", "--quiet"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    loaded = set(json.loads(process.stdout))
    assert "dbbd_cli.engine.trainer" in loaded
    assert loaded.isdisjoint(UNWANTED), loaded.intersection(UNWANTED)
