"""Measure what pretraining is worth on a folder of labeled scans, or on synthetic rooms: the tables of docs/dbbd.md.

Usage: python tests/benchmarks/pretraining.py SCANS|rooms OUT [--divisions 0 1 2] [--labeled 4 12]
       [--pretrain KEY=VALUE …] [--tune KEY=VALUE …]

The scans are divided at random: some for the test, some of the others for pretraining without labels, the rest for its
validation. Each division is pretrained on and evaluated; then segmentation learns from few labeled scans, from scratch
and from the pretrained encoder, and its last epoch is scored on the test scans. Runs that exist in OUT are kept, so
that an interrupted call can be repeated, and divisions can be computed side by side.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tables import plain_table

from dbbd_cli.data.scenes.reader import READERS
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.data.scenes.writing import write_ply

ROOMS, POINTS_PER_ROOM = 64, 25_000
TEST_SHARE, VALIDATION_SCANS = 0.3125, 4


def natural(path: Path) -> list[Any]:
    """A key that sorts `9.ply` before `10.ply`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def write_rooms(folder: Path) -> None:
    """Write synthetic rooms as PLY files with labels, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(ROOMS):
        path = folder / f"{index}.ply"
        if not path.exists():
            room = generate_room(0, index, POINTS_PER_ROOM)
            assert room.segment is not None
            columns = dict(zip("xyz", room.coord.T, strict=True))
            write_ply(path, {**columns, "label": room.segment.astype(np.int32)})


def link(folder: Path, splits: Mapping[str, Sequence[Path]]) -> Path:
    """Make a folder of links to the scans of each split."""
    for split, scans in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for scan in scans:
            place = folder / split / scan.name
            if not place.is_symlink():
                place.symlink_to(scan.resolve())
    return folder


class Runs:
    """Runs of the program in a folder."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def train(self, name: str, config: str, data: Path, settings: Sequence[str]) -> Path:
        """Train a run of this name, unless it is there; return its folder."""
        found = [path for path in self.out.glob(f"runs/*-{name}") if (path / "trained").exists()]
        if not found:
            settings = [f"data.path={data}", f"run.runs_dir={self.out / 'runs'}", f"run.name={name}", *settings]
            self._dbbd("train", "--config", config, "--no-plots", *(f"--set={setting}" for setting in settings))
            found = sorted(self.out.glob(f"runs/*-{name}"))[-1:]
            (found[0] / "trained").touch()
        return found[0]

    def evaluate(self, run: Path, checkpoint: str) -> dict[str, Any]:
        """The evaluation of a checkpoint on the test split."""
        path = run / "evaluation.json"
        if not path.exists():
            self._dbbd("evaluate", str(run / checkpoint), "--no-plots")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def _dbbd(self, *arguments: str) -> None:
        Console(stderr=True).print("dbbd", *arguments, style="dim", markup=False, highlight=False)
        cache = f"--set=data.cache_dir={self.out / 'cache'}"
        subprocess.run([sys.executable, "-m", "dbbd_cli", *arguments, cache], check=True, stdout=subprocess.DEVNULL)


def measure(runs: Runs, scans: Sequence[Path], division: int, options: argparse.Namespace) -> dict[str, float]:
    """The mIoU of everything in one division, by what it is."""
    order = np.random.default_rng(1000 + division).permutation(len(scans))
    mixed = [scans[number] for number in order]
    count = round(TEST_SHARE * len(scans))
    test, pool = mixed[:count], mixed[count:]
    splits = {"train": pool[:-VALIDATION_SCANS], "val": pool[-VALIDATION_SCANS:], "test": test}
    data = link(runs.out / f"division{division}", splits)
    settings = [f"seed={division + 1}", *options.pretrain]
    pretrained = runs.train(f"pretrained{division}", options.config, data, settings)
    found = {
        f"probe, {point['scenes']} scans: {curve['name']}": point["miou"]
        for curve in runs.evaluate(pretrained, "best_model.pth")["label_efficiency"]["curves"]
        for point in curve["points"]
    }
    for number in options.labeled:
        chosen = [pool[place] for place in np.random.default_rng(100 * division + number).permutation(len(pool))]
        # The validation scan decides nothing: the last epoch is evaluated.
        splits = {"train": chosen[:number], "val": chosen[number : number + 1], "test": test}
        data = link(runs.out / f"division{division}-{number}", splits)
        weights = f"model.weights={pretrained}"
        starts = {
            "pretrained, frozen": [weights, "training.freeze=encoder"],
            "pretrained": [weights],
            "from scratch": [],
        }
        for place, (start, changes) in enumerate(starts.items()):
            settings = ["model.branches=both", *changes, *options.tune]
            name = f"tuned{division}-{number}-{place}"
            report = runs.evaluate(runs.train(name, "segment_scans", data, settings), "ckpt.pth")
            found[f"segmentation, {number} scans: {start}"] = report["miou"]
            found |= {f"segmentation, {number} scans: {row['name']}": row["miou"] for row in report["baselines"]}
    return found


def main() -> None:
    """Measure all divisions, and print mean and range of each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", help="folder of labeled scans, or `rooms`")
    parser.add_argument("out", type=Path, help="folder for links, runs and cache")
    parser.add_argument("--divisions", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labeled", type=int, nargs="*", default=[4, 12], help="numbers of scans to tune on")
    parser.add_argument("--config", default="dbbd_plus", help="configuration of pretraining")
    parser.add_argument("--pretrain", nargs="*", default=[], help="settings of pretraining")
    parser.add_argument("--tune", nargs="*", default=[], help="settings of segmentation")
    options = parser.parse_args()
    out = options.out.resolve()
    folder = out / "rooms" if options.scans == "rooms" else Path(options.scans)
    if options.scans == "rooms":
        write_rooms(folder)
    scans = sorted((path for path in folder.iterdir() if path.suffix.lower() in READERS), key=natural)
    measured = [measure(Runs(out), scans, division, options) for division in options.divisions]
    table = plain_table("", "mean mIoU", "range")
    for name in measured[0]:
        values = [100 * found[name] for found in measured]
        table.add_row(name, f"{np.mean(values):.1f}%", f"{min(values):.1f} to {max(values):.1f}%")
    Console().print(table)


if __name__ == "__main__":
    main()
