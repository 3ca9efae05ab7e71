"""Small runs on disk, and invariants of every run folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forks import Ended, Forks
from program import TINY, differences, only_run, whole_state

from dbbd_cli.engine.checkpoint.files import checkpoint_names, load_checkpoint

TASKS = list(TINY)
EVERY_STEP = {
    task: (*options, "--set", "checkpoint.every_steps=1", "--set", "data.num_workers=0")
    for task, options in TINY.items()
}
"""Options of `dbbd train` for runs of a few fast steps, each of which is saved."""
EVERY_STEP["image_classification"] += ("--set", "data.sample_per_class=10", "--set", "training.batch_size=7")
EVERY_STEP["url_classification"] += ("--set", "data.sample_per_class=10", "--set", "training.batch_size=8")
SHORT = ["dbbd", "url_classification"]
"""The tasks of most short experiments; those of images save 50 times as much per step."""


def cases(short: list[Any], full: list[Any]) -> list[Any]:
    """The parameters of a test: some in every test run, all with the full counts."""
    return full if os.environ.get("DBBD_RELIABILITY") == "full" else short


class StoredRuns:
    """Trains runs once, and copies them."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks = forks
        self.folder = folder

    def done(self, task: str, epochs: int, *options: str) -> Path:
        """The folder of a run that ended after this many epochs. It must not be changed."""
        place = self.folder / "-".join([task, str(epochs), *(re.sub(r"\W", "", option) for option in options)])
        if not place.exists():
            place.mkdir()
            ended = self.forks.dbbd("train", *EVERY_STEP[task], *options, "--epochs", str(epochs), folder=place)
            assert ended.code == 0, ended.err
        return only_run(place)

    def extended(self, task: str, epochs: int, more: int) -> Path:
        """The folder of a run that ended after `epochs` and was then resumed up to `more` epochs."""
        place = self.folder / f"{task}-{epochs}-{more}"
        if not place.exists():
            self.copy(self.done(task, epochs), place / "runs")
            ended = self.resume(only_run(place), more)
            assert ended.code == 0, ended.err
        return only_run(place)

    def copy(self, run: Path, parent: Path) -> Path:
        """Copy a run folder into another folder; hard links become separate files."""
        return Path(shutil.copytree(run, parent / run.name))

    def resume(self, run: Path, epochs: int, *options: str) -> Ended:
        """Resume a run."""
        return self.forks.dbbd("resume", str(run), "--epochs", str(epochs), *options, folder=run.parent)


def saved_steps(run: Path) -> dict[str, int]:
    """The step of each checkpoint of a folder by name; all must be intact and finite."""
    found = {}
    for name in checkpoint_names(run):
        state = load_checkpoint(run / name)
        assert not_finite(state["module"]) == [], name
        found[name] = state["state"]["step"]
    return found


def run_in(folder: Path) -> Path | None:
    """The run folder below `folder/runs`, once it has its name."""
    found = [path for path in (folder / "runs").glob("*") if path.suffix != ".tmp"]
    assert len(found) < 2
    return found[0] if found else None


def not_finite(values: Any, where: str = "") -> list[str]:
    """The locations of NaN and infinity in nested tensors."""
    if isinstance(values, torch.Tensor):
        return [] if not values.is_floating_point() or bool(torch.isfinite(values).all()) else [where]
    if isinstance(values, dict):
        return [found for key, value in values.items() for found in not_finite(value, f"{where}.{key}")]
    if isinstance(values, (list, tuple)):
        return [found for index, value in enumerate(values) for found in not_finite(value, f"{where}[{index}]")]
    return []


def strays(folder: Path) -> list[str]:
    """Temporary files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))


def unlike(run: Path, reference: Path) -> list[str]:
    """The differences of two runs in newest checkpoint, best model or history."""
    found = [
        difference
        for name in ("ckpt.pth", "best_model.pth")
        for difference in differences(whole_state(reference, name), whole_state(run, name), name)
    ]
    if (run / "history.jsonl").read_bytes() != (reference / "history.jsonl").read_bytes():
        found.append("history.jsonl")
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sample(items: list[Any], most: int, key: Callable[[Any], Any] = lambda item: 0) -> list[Any]:
    """At most `most` items in order: of each `key` the last, then the first, then one in the middle, ..."""
    if len(items) <= most:
        return items
    groups: dict[Any, list[Any]] = {}
    for item in reversed(items):
        groups.setdefault(key(item), []).append(item)
    chosen: list[Any] = []
    for part in (0.0, 1.0, 0.5, 0.25, 0.75, *(number / 97 for number in range(97))):
        chosen += [group[int(part * (len(group) - 1))] for group in groups.values()]
    kept = set(list(dict.fromkeys(chosen))[:most])
    return [item for item in items if item in kept]
