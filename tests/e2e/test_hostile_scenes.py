"""Hostile scenes are refused by name before training starts, and nothing in them is executed or stored."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COORD = np.random.default_rng(0).random((200, 3), dtype=np.float32)


def scene(path: Path, coord: np.ndarray, **content: Any) -> Path:
    path = path.with_suffix(".pkl")
    path.write_bytes(pickle.dumps({"coords": coord, **content}))
    return path


def tree() -> dict[str, Any]:
    """A region of all points, halved."""
    halves: list[dict[str, Any]] = [
        {"indices": list(range(start, start + 100)), "center_idx": start, "level": 1, "children": []}
        for start in (0, 100)
    ]
    return {"indices": list(range(200)), "center_idx": 5, "level": 0, "children": halves}


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def not_a_number(path: Path) -> Path:
    coord = COORD.copy()
    coord[42, 1] = np.nan
    return scene(path, coord)


def cycle(path: Path) -> Path:
    root = tree()
    root["children"][0]["children"] = [root]
    return scene(path, COORD, hierarchy=root)


def truncated(path: Path) -> Path:
    path = path.with_suffix(".ply")
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\n{properties}end_header\n"
    path.write_bytes(header.encode() + COORD.tobytes())
    return path


def payload(path: Path) -> Path:
    return scene(path, COORD, extra=Payload(path.parents[2] / "ran"))


REASONS = {
    not_a_number: "not finite at point 42",
    cycle: "its children contain 200",
    truncated: "1,000,000,000,000",
    payload: "nothing in it was run",
}


@pytest.mark.parametrize("write", REASONS, ids=lambda write: write.__name__)
def test_a_hostile_scene_is_refused_by_name_before_torch_is_loaded(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    root = tmp_path / "scenes"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(2):
            scene(root / split / f"good{number}", COORD + number, hierarchy=tree())
    bad = write(root / "train" / "bad")
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dbbd_cli", "train", "--config", "smoke_dbbd",
         "--set", "data.source=folder", "--set", f"data.path={root}", "--set", f"data.cache_dir={tmp_path / 'cache'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    lines = process.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    output = "\n".join(line for line in lines if not line.startswith("import time:"))
    assert process.returncode == 3, output
    assert str(bad) in output
    assert REASONS[write] in output
    assert "Traceback" not in output
    assert "good" not in output
    assert process.stdout == ""
    assert not CONTROL.search(output)
    assert {"dbbd_cli.services.preparation", "numpy"} <= loaded  # so that the names are those of modules
    assert not {"torch", "torchvision", "matplotlib", "tensorboard"} & loaded
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["scenes"]
