"""Measure the start of runs with many images: time to the first step, peak memory, and sizes of what is written.

Small PNG files, similar to QR codes and each with other bytes, are made once in a folder, 1,000 in each subfolder. Then
`train` starts with an empty cache (cold) and again (warm), `resume` continues, `evaluate` reports on the test split;
each is stopped after its first batch. The logs say when phases begin, in seconds of CPU time of the main process.

Usage: python tests/benchmarks/many_images.py --folder DIR [--count 20000 100000 1000000] [--size 64] [--warm]
"""

# ruff: noqa: T201
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import StoppedError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.tasks.configs import load_config

PATTERNS = 1000
"""Encoded images; the files differ by a text chunk, so that each has a digest of its own."""
FILES_PER_FOLDER = 1000
MIB = 1024**2


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the images, measure all commands, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where images, cache and runs are put; kept")
    parser.add_argument("--count", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--size", type=int, default=64, help="data.image_size")
    parser.add_argument("--workers", type=int, default=2, help="data.num_workers")
    parser.add_argument("--only-make", action="store_true", help="make the images and stop")
    parser.add_argument("--warm", action="store_true", help="keep the cache of an earlier measurement")
    parser.add_argument("--begin", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.begin:
        begin(*options.begin)
        return
    if options.folder is None:
        parser.error("--folder is required")
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
    home.mkdir(exist_ok=True)
    settings = {
        "data.path": str(data),
        "data.sample_per_class": None,
        "data.image_size": options.size,
        "data.cache_dir": str(cache),
        "data.num_workers": options.workers,
        "run.runs_dir": str(runs),
        "run.plots": False,
    }
    for name in ["warm"] if options.warm else ["cold", "warm"]:
        report(f"train, {name}", data, home, run("train", settings, home / f"{name}.log"))
    newest = max(runs.glob("2*"))
    report("resume", data, home, run("resume", str(newest), home / "resume.log"))
    report("evaluate", data, home, run("evaluate", str(newest), home / "evaluate.log"))
    sizes = {
        "cache": sum(path.stat().st_size for path in cache.iterdir()),
        "splits.json": (newest / "splits.json").stat().st_size,
    }
    print(json.dumps({"data": data.name, **{name: round(size / MIB, 1) for name, size in sizes.items()}}), flush=True)


def run(command: str, argument: object, log: Path) -> tuple[float, float, Peak]:
    """Run a command until its first batch.

    Returns:
        Seconds until then, seconds of CPU time of all its processes, and the peak memory.
    """
    peak, used = Peak(), os.times()
    start = time.perf_counter()
    with log.open("wb") as file:
        call = [sys.executable, __file__, "--begin", json.dumps([command, argument])]
        program = subprocess.Popen(call, stdout=file, stderr=file)
    process, first = psutil.Process(program.pid), 0.0
    while program.poll() is None:
        peak.look(process)
        if not first and b"first batch" in log.read_bytes():
            first = time.perf_counter() - start
        time.sleep(0.05)
    now = os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return first, cpu, peak


def report(name: str, data: Path, home: Path, measured: tuple[float, float, Peak]) -> None:
    """Print a measurement."""
    first, cpu, peak = measured
    row = {
        "data": data.name,
        "what": name,
        "seconds": round(first, 1),
        "cpu": round(cpu, 1),
        "peak": round(peak.main),
        "peak_of_others": round(max(peak.others.values(), default=0)),
    }
    print(json.dumps(row), flush=True)


class Beginning(Silent):
    """Prints when each phase begins, and stops the program, as Ctrl-C does, after the first batch of the last one."""

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        """Open a phase."""
        self.line(title)
        last = title.endswith("train") or title == "Evaluate test"

        class First:
            begun = False

            def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                if last and not self.begun:
                    print(f"{time.process_time():7.1f} first batch", flush=True)
                    self.begun = True
                    os.kill(os.getpid(), signal.SIGINT)

        yield First()

    def line(self, text: str) -> None:
        """Print a line with the CPU time of this process."""
        print(f"{time.process_time():7.1f} {text}", flush=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.line(text)


def begin(command: str, argument: Any) -> None:
    """Begin a command, as the command line does."""
    with suppress(StoppedError, KeyboardInterrupt):
        if command == "train":
            from dbbd_cli.services.train import train

            overrides = [Override(key, value, "many_images.py") for key, value in argument.items()]
            train(load_config("qr_cnn", overrides), progress=Beginning())
        elif command == "resume":
            from dbbd_cli.services.resume import resume

            resume(Path(argument), progress=Beginning())
        else:
            from dbbd_cli.services.evaluate import evaluate

            evaluate(Path(argument), plots=False, progress=Beginning())


if __name__ == "__main__":
    main()
