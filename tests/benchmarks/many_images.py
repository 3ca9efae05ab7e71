"""Measure the start of runs with many images: time to the first step, peak memory, and sizes of what is written.

Small PNG files, similar to QR codes and each with other bytes, are made once in a folder, 1,000 in each subfolder. Then
`dbbd train` starts with an empty cache (cold) and again (warm), `dbbd resume` continues, and `dbbd evaluate` reports on
the test split; each is stopped at its first step or, in evaluation, at its first batch, unless `--complete` is given.

Usage: python tests/benchmarks/many_images.py --folder DIR [--count 20000 100000 1000000] [--size 64] [--complete]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PATTERNS = 1000
"""Encoded images; the files differ by a text chunk, so that each has a digest of its own."""
FILES_PER_FOLDER = 1000
MIB = 1024**2


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the images, measure all commands, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where images, cache and runs are put; kept")
    parser.add_argument("--count", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--size", type=int, default=64, help="data.image_size")
    parser.add_argument("--workers", type=int, default=2, help="data.num_workers")
    parser.add_argument("--complete", action="store_true", help="evaluate to the end")
    parser.add_argument("--only-make", action="store_true", help="make the images and stop")
    parser.add_argument("--warm", action="store_true", help="keep the cache of an earlier measurement")
    options = parser.parse_args(arguments)
    for count in options.count:
        data = options.folder / f"images-{count}"
        make_images(data, count)
        if not options.only_make:
            measure(data, options)


def make_images(folder: Path, count: int) -> None:
    """Write `count` images of two classes, unless the folder exists."""
    if folder.exists():
        return
    rng = np.random.default_rng(0)
    for label in range(2):
        patterns = [_encoded(rng, label) for _ in range(PATTERNS)]
        for number in range(count // 2):
            place = folder / ("benign", "malicious")[label] / f"{number // FILES_PER_FOLDER:04d}"
            if number % FILES_PER_FOLDER == 0:
                place.mkdir(parents=True)
            content = _with_text(patterns[number % PATTERNS], f"{label} {number}")
            (place / f"{number:07d}.png").write_bytes(content)


def _encoded(rng: np.random.Generator, label: int) -> bytes:
    """A PNG of 33 to 64 black and white pixels a side."""
    size = int(rng.integers(33, 65))
    modules = rng.random((size, size)) < (0.5 if label else 0.45)
    file = io.BytesIO()
    Image.fromarray(np.where(modules, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def _with_text(png: bytes, text: str) -> bytes:
    """The PNG with a text chunk before its last chunk, which has 12 bytes."""
    chunk = b"tEXtComment\0" + text.encode("ascii")
    whole = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:-12] + whole + png[-12:]


@dataclass
class Peak:
    """Peak memory of a program: of its first process, and of the largest of the others."""

    main: float = 0.0
    others: dict[int, float] = field(default_factory=dict)

    def look(self, process: psutil.Process) -> None:
        """Take note of the memory now."""
        with suppress(psutil.Error, OSError):
            self.main = max(self.main, _peak(process.pid))
            for child in process.children(recursive=True):
                with suppress(psutil.Error, OSError):
                    self.others[child.pid] = max(self.others.get(child.pid, 0.0), _peak(child.pid))


def _peak(pid: int) -> float:
    """Peak resident memory of a process, MiB; 0 if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def measure(data: Path, options: argparse.Namespace) -> None:
    """Measure all commands on the images of a folder."""
    home = options.folder / f"work-{data.name}-{options.size}"
    cache, runs = home / "cache", home / "runs"
    train = [
        *("train", "--config", "qr_cnn", "--runs-dir", str(runs), "--progress", "plain", "--no-plots"),
        *(f"--set=data.path={data}", "--set=data.sample_per_class=null", f"--set=data.image_size={options.size}"),
        *(f"--set=data.cache_dir={cache}", f"--set=data.num_workers={options.workers}"),
        *("--set=run.log_every_steps=1", "--set=checkpoint.every_steps=1000000"),
    ]

    def stepped(before: set[Path]) -> Callable[[], bool]:
        return lambda: any(
            '"kind": "step"' in (path / "history.jsonl").read_text()
            for path in set(runs.glob("2*")) - before
            if (path / "history.jsonl").exists()
        )

    for name in ["warm"] if options.warm else ["cold", "warm"]:
        before = set(runs.glob("2*"))
        report(f"train, {name}", data, *run(train, stepped(before), home / f"{name}.log"))
    newest = max(runs.glob("2*"))
    history = newest / "history.jsonl"
    size = history.stat().st_size
    report(
        "resume",
        data,
        *run(
            ["resume", str(newest), "--progress", "plain"], lambda: history.stat().st_size > size, home / "resume.log"
        ),
    )
    log = home / "evaluate.log"
    first = (lambda: False) if options.complete else (lambda: "Evaluate test" in log.read_text(errors="replace"))
    report("evaluate", data, *run(["evaluate", str(newest), "--progress", "plain"], first, log))
    sizes = {
        "cache": sum(path.stat().st_size for path in cache.iterdir()),
        "splits.json": (newest / "splits.json").stat().st_size,
    }
    print(json.dumps({"data": data.name, **{name: round(size / MIB, 1) for name, size in sizes.items()}}), flush=True)  # noqa: T201


def run(command: Sequence[str], begun: Callable[[], bool], log: Path) -> tuple[float, float, float, Peak]:
    """Run `dbbd` until it has begun or ended, then stop it as Ctrl-C does.

    Returns:
        Seconds until then, seconds of the stop, seconds of CPU time of all processes, and the peak memory.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = Peak()
    start = time.perf_counter()
    used = os.times()
    with log.open("wb") as file:
        program = subprocess.Popen([sys.executable, "-m", "dbbd_cli", *command], stdout=file, stderr=file)
    process = psutil.Process(program.pid)
    while program.poll() is None and not begun():
        peak.look(process)
        time.sleep(0.1)
    first = time.perf_counter() - start
    peak.look(process)
    if program.poll() is None:
        program.send_signal(signal.SIGINT)
    while program.poll() is None:
        peak.look(process)
        time.sleep(0.1)
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    if program.returncode not in (0, 130):
        print(log.read_text(errors="replace")[-2000:])  # noqa: T201
    return first, time.perf_counter() - start - first, cpu, peak


def report(name: str, data: Path, first: float, stop: float, cpu: float, peak: Peak) -> None:
    """Print a measurement."""
    row = {
        "data": data.name,
        "what": name,
        "seconds": round(first, 1),
        "stop": round(stop, 1),
        "cpu": round(cpu, 1),
        "peak": round(peak.main),
        "peak_of_others": round(max(peak.others.values(), default=0)),
    }
    print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
