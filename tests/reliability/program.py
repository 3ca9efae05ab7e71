"""Running the program as users do: as a process, with real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

TINY = {
    "image_classification": (
        *("--config", "smoke_qr", "--no-plots", "--device", "cpu"),
        *("--set", "data.sample_per_class=30", "--set", "data.image_size=32", "--set", "training.batch_size=4"),
        *("--set", "run.log_every_steps=1"),
    ),
    "dbbd": (
        *("--config", "smoke_dbbd", "--no-plots", "--device", "cpu"),
        *("--set", "data.synthetic_scenes=12", "--set", "data.synthetic_points=1000", "--set", "data.max_depth=2"),
        *("--set", "model.hidden_dim=16", "--set", "model.output_dim=16", "--set", "model.encoder_hidden_dims=[16]"),
        *("--set", "model.propagator_hidden_dim=16", "--set", "model.projection_dim=16"),
        *("--set", "loss.point_samples=64", "--set", "training.batch_size=2", "--set", "run.log_every_steps=1"),
    ),
    "segmentation": (
        *("--config", "smoke_segmentation", "--no-plots", "--device", "cpu"),
        *("--set", "data.synthetic_points=1000", "--set", "data.max_depth=2", "--set", "model.forest_trees=2"),
        *("--set", "loss.point_samples=64", "--set", "training.batch_size=2", "--set", "run.log_every_steps=1"),
    ),
    "url_classification": (
        *("--config", "smoke_url", "--no-plots", "--device", "cpu"),
        *("--set", "data.sample_per_class=30", "--set", "model.hash_bits=10", "--set", "training.batch_size=4"),
        *("--set", "run.log_every_steps=1"),
    ),
}
"""Options of `dbbd train` for runs whose steps take milliseconds."""


def without(options: Sequence[str], key: str) -> list[str]:
    """Return the options without the settings whose keys begin with one of the prefixes."""
    following = [*options[1:], ""]
    return [
        option
        for option, after in zip(options, following, strict=True)
        if not option.startswith(key) and not (option == "--set" and after.startswith(key))
    ]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a process: one thread, no colors."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **changes}


def start(*arguments: str, folder: Path, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start `dbbd ARGUMENTS` in a folder, with its output in pipes unless `options` say otherwise."""
    return subprocess.Popen(
        [sys.executable, "-m", "dbbd_cli", *arguments],
        cwd=folder,
        env=dict(env or environment()),
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def run(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, seconds: float = 120
) -> tuple[int, str, str]:
    """Run `dbbd ARGUMENTS`; return exit code, standard output and standard error."""
    process = start(*arguments, folder=folder, env=env)
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


_MEASURING = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024], open(sys.argv[1], "w"))
"""


def measure(*arguments: str, folder: Path, seconds: float = 120) -> tuple[int, str, float, float]:
    """Run `dbbd ARGUMENTS`; return exit code, output, processor seconds and peak memory in MB.

    Linux counts the memory of the process that forked as that of its child; hence a small process in between.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "found.json"
        done = subprocess.run(
            [sys.executable, "-c", _MEASURING, str(found), sys.executable, "-m", "dbbd_cli", *arguments],
            cwd=folder,
            env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=True,
        )
        code, used, megabytes = json.loads(found.read_text())
    return code, done.stdout.decode("utf-8", "replace"), used, megabytes


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the peak memory of this process since then, in MB above its memory before.

    Always 0 on systems other than Linux.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def megabytes(field: str) -> float:
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)

    with suppress(OSError):
        reset.write_text("5")
    before = megabytes("VmRSS")
    yield lambda: megabytes("VmHWM") - before


def only_run(folder: Path) -> Path:
    """Return the only run folder in `folder/runs`."""
    (found,) = (folder / "runs").iterdir()
    return found


def whole_state(run_folder: Path, name: str = "ckpt.pth") -> dict[str, Any]:
    """Return the content of a checkpoint without what differs between equal runs: times and paths."""
    state = torch.load(run_folder / name, weights_only=True)
    for key in ("seconds", "seconds_at_epoch"):
        state["state"].pop(key)
    state.pop("config")
    return state


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the places where two nested values differ in a bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return [] if same and torch.equal(_bytes(first), _bytes(second)) else [where]
    if isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return [found for key in first for found in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        pairs = zip(first, second, strict=True)
        return [found for index, (a, b) in enumerate(pairs) for found in differences(a, b, f"{where}[{index}]")]
    return [] if repr(first) == repr(second) else [f"{where}: {first!r} and {second!r}"]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor
