"""Thousands of short epochs in one process: memory and open files must stay constant, and every record be complete.

Usage: python tests/reliability/soak.py --epochs 2000
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
from program import TINY, only_run, start

OPTIONS = {
    "image_classification": (
        *("--set", "data.sample_per_class=10", "--set", "training.batch_size=16", "--set", "training.optimizer=sgd"),
        *("--set", "data.num_workers=1"),
    ),
    "dbbd": (
        *("--set", "training.batch_size=4", "--set", "data.synthetic_scenes=6", "--set", "loss.point_samples=16"),
        *("--set", "data.num_workers=1"),
    ),
    "segmentation": (*("--set", "training.batch_size=4", "--set", "data.num_workers=1"),),
    "url_classification": (
        *("--set", "data.sample_per_class=10", "--set", "training.batch_size=16", "--set", "data.num_workers=1"),
    ),
}
"""Options for epochs of one step, with a data worker."""
MAX_KB_PER_100_EPOCHS = 1000.0
"""Limit on memory growth; the history of an epoch, kept for checkpoint and report, takes a few kB."""
PARTS = 20
WARM_UP = 0.2
"""Share of a run to ignore: memory grows in the first epochs, and then stays."""


@dataclass(frozen=True)
class Sample:
    """Resources of a process and its children at one time."""

    epoch: int
    memory_kb: float
    files: int
    processes: int


@dataclass(frozen=True)
class Result:
    """The result of a long run."""

    task: str
    epochs: int
    seconds: float
    samples: list[Sample]
    missing: list[str]

    @property
    def settled(self) -> list[Sample]:
        """The samples after the warm-up and before the last epoch."""
        return [sample for sample in self.samples if self.epochs * WARM_UP < sample.epoch < self.epochs]

    def slope(self, name: str) -> float:
        """Return the growth of a number per 100 epochs, by least squares.

        It varies within an epoch. The run is therefore divided into parts, and the minimum of each part is used.
        """
        parts = [part for part in np.array_split(np.asarray(self.settled, dtype=object), PARTS) if len(part)]
        least = [min(part, key=lambda sample: getattr(sample, name)) for part in parts]
        values = [getattr(sample, name) for sample in least]
        return float(np.polyfit([sample.epoch for sample in least], values, 1)[0] * 100)

    @property
    def faults(self) -> list[str]:
        """The reasons why the run failed; empty if it succeeded."""
        found = list(self.missing)
        if self.slope("memory_kb") > MAX_KB_PER_100_EPOCHS:
            found.append(f"memory grew by {self.slope('memory_kb'):.0f} kB per 100 epochs")
        slopes = {name: self.slope(name) for name in ("files", "processes")}
        return found + [f"{name} grew by {slope:.1f} per 100 epochs" for name, slope in slopes.items() if slope > 0.5]

    def __str__(self) -> str:
        first, last, each = self.settled[0], self.settled[-1], 1000 * self.seconds / self.epochs
        mb = [sample.memory_kb / 1024 for sample in (first, last)]
        return (
            f"{self.task}: {self.epochs} epochs in {self.seconds:.0f} s ({each:.0f} ms each)\n"
            f"  memory  {mb[0]:.1f} MB at epoch {first.epoch}, {mb[1]:.1f} MB at the end: "
            f"{self.slope('memory_kb'):+.1f} kB per 100 epochs\n"
            f"  files   {first.files} and {last.files} open: {self.slope('files'):+.2f} per 100 epochs\n"
            f"  records {'complete' if not self.missing else '; '.join(self.missing[:3])}\n"
            f"  verdict {'flat' if not self.faults else '; '.join(self.faults[:3])}"
        )


class Watched(Protocol):
    """A training process."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""


def soak(
    task: str, epochs: int, folder: Path, begin: Callable[[Sequence[str], Path], Watched], seconds_between: float
) -> Result:
    """Train for a number of epochs, and watch the process.

    Args:
        task: the task to train.
        epochs: number of epochs.
        folder: working directory of the process.
        begin: starts `dbbd` with the given arguments in a folder.
        seconds_between: seconds between samples.
    """
    began = time.monotonic()
    process = begin(("train", *TINY[task], *OPTIONS[task], "--epochs", str(epochs)), folder)
    watched, samples = psutil.Process(process.pid), []
    while (code := process.poll()) is None:
        if (sample := _sample(watched, folder)) is not None:
            samples.append(sample)
        time.sleep(seconds_between)
    if code:
        raise AssertionError(f"{task}: exit code {code}")
    return Result(task, epochs, time.monotonic() - began, samples, missing_records(only_run(folder), epochs))


def _sample(watched: psutil.Process, folder: Path) -> Sample | None:
    """Return memory and open files of a process and its children; None while it is starting or ending."""
    histories = list(folder.glob("runs/*/run.log"))
    try:
        processes = [watched, *watched.children(recursive=True)]
        memory = sum(process.memory_info().rss for process in processes) / 1024
        files = sum(process.num_fds() for process in processes)
    except psutil.Error:
        return None
    rows = re.findall(r" (\d+)/\d+ ", _end_of(histories[0])) if histories else []
    return Sample(int(rows[-1]), memory, files, len(processes)) if rows else None


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1000))
        return file.read().decode("utf-8", errors="replace")


def missing_records(run: Path, epochs: int) -> list[str]:
    """Return what is missing from `history.jsonl` and the TensorBoard events of a run."""
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    of_epochs = [row for row in rows if row["kind"] == "epoch"]
    missing = []
    if steps != list(range(1, of_epochs[-1]["step"] + 1)):
        missing.append(f"history.jsonl has {len(steps)} of {of_epochs[-1]['step']} steps")
    if [row["epoch"] for row in of_epochs] != list(range(1, epochs + 1)):
        missing.append(f"history.jsonl has {len(of_epochs)} of {epochs} epochs")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    written = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    for row in of_epochs:
        wanted = {f"{split}/{name}": value for split in ("train", "val") for name, value in row[split].items()}
        for tag, value in {**wanted, "learning_rate": row["learning_rate"]}.items():
            found = written.get(tag, {}).get(row["step"])
            if found is None or abs(found - value) > 1e-5 * max(1.0, abs(value)):
                missing.append(f"TensorBoard: {tag} of epoch {row['epoch']} is {found}, not {value}")
        if row["step"] not in written.get("seconds_per_epoch", {}):
            missing.append(f"TensorBoard: seconds of epoch {row['epoch']}")
    missing += [f"TensorBoard: gradient of step {step}" for step in steps if step not in written["train/grad_norm"]]
    return missing


def _begin(arguments: Sequence[str], folder: Path) -> Watched:
    return start(*arguments, "--quiet", folder=folder, stdout=subprocess.DEVNULL, stderr=None)


def main() -> None:
    """Run each task and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--task", choices=TINY, action="append")
    options = parser.parse_args()
    faults = []
    for task in options.task or TINY:
        with tempfile.TemporaryDirectory() as folder:
            result = soak(task, options.epochs, Path(folder), _begin, seconds_between=1.0)
            print(result, flush=True)  # noqa: T201
            faults += result.faults
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
