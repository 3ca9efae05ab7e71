"""Measure `dbbd prepare` on many scenes, each in a PLY file with colors, on an empty cache.

Usage: python tests/benchmarks/prepare_scenes.py FOLDER [--scenes 150] [--points 150000] [--workers 2]
       [--config dbbd_scannet] [--scans SCANS]

The scenes are synthetic rooms; with `--scans`, real scans side by side, cut to the same number of points. They differ
by a turn and by noise of a millimeter. They are written to FOLDER first, and kept for the next call; the cache, in
FOLDER too, is removed before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from tables import plain_table

from dbbd_cli.data.scenes.reader import READERS, read_scene
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.data.scenes.writing import write_ply

DIFFERENT = 12
"""Rooms, or groups of real scans, that the scenes are made from."""
SIDE_BY_SIDE = 8
"""Real scans in a scene."""
NOISE = 1e-3
SCANNET = 1513


def original(number: int, points: int, scans: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates `(points, 3)` and colors `(points, 3)`, uint8, of a room or of real scans side by side."""
    rng = np.random.default_rng(number)
    if not scans:
        room = generate_room(0, number, points)
        assert room.color is not None
        return room.coord, np.rint(room.color * 255).astype(np.uint8)
    parts, x = [], 0.0
    for place in range(SIDE_BY_SIDE):
        coord = read_scene(scans[(number * SIDE_BY_SIDE + place) % len(scans)]).coord
        parts.append(coord - coord.min(axis=0) + [x, 0, 0])
        x += float(np.ptp(coord[:, 0]))
    coord = np.concatenate(parts)
    coord = coord[rng.choice(len(coord), points, replace=len(coord) < points)]
    return coord, rng.integers(0, 256, coord.shape, np.uint8)


def write_scenes(folder: Path, count: int, points: int, scans: list[Path]) -> None:
    """Write the scenes that are missing."""
    originals = [original(number, points, scans) for number in range(min(DIFFERENT, count))]
    for number in range(count):
        path = folder / f"scene{number:04d}_00.ply"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        coord, color = originals[number % len(originals)]
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        columns = dict(
            zip("xyz", (coord @ turn.T + rng.normal(0, NOISE, coord.shape)).astype(np.float32).T, strict=True)
        )
        write_ply(path, {**columns, **dict(zip(("red", "green", "blue"), color.T, strict=True))})


def main() -> None:
    """Write the scenes, prepare them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--points", type=int, default=150_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--config", default="dbbd_scannet")
    parser.add_argument("--scans", type=Path, help="folder of real scans")
    options = parser.parse_args()
    scenes, cache = options.folder / "scenes", options.folder / "cache"
    scenes.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
    scans = [] if options.scans is None else sorted(p for p in options.scans.iterdir() if p.suffix.lower() in READERS)
    write_scenes(scenes, options.scenes, options.points, scans)
    command = [sys.executable, "-m", "dbbd_cli", "prepare", "--config", options.config, "--json"]
    command += ["--workers", str(options.workers), "--set", "data.source=folder", "--set", f"data.path={scenes}"]
    done = subprocess.run([*command, "--set", f"data.cache_dir={cache}"], stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = sum(path.stat().st_size for path in cache.iterdir())
    shutil.rmtree(cache)
    count, cpu = result["prepared"], used.ru_utime + used.ru_stime
    seconds = result["seconds"]
    table = plain_table(f"{count} scenes of {options.points:,} points, {options.config}, {options.workers} workers", "")
    table.add_row("time", f"{seconds:.1f} s")
    table.add_row("time for 1,513 scenes, at this pace", f"{seconds / count * SCANNET / 60:.1f} min")
    table.add_row("CPU time per scene", f"{cpu / count:.3f} s")
    table.add_row("cache per scene", f"{size / count / 1e6:.1f} MB")
    table.add_row("largest process", f"{used.ru_maxrss / 1024:.0f} MB")
    table.add_row("load of the machine in the last 5 minutes", f"{os.getloadavg()[1]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
