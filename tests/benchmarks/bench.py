"""Measure how close `dbbd` comes to the limits of the machine.

Each case runs in a fresh process, so cases do not share memory, and a crash ends only one of them. Scores are relative
to the arithmetic speed of the machine (G: GFLOP/s of an fp32 matrix product, B: of a bf16 one) or to another reference.
The reference is measured alternately with the case, so scores are comparable between machines, even busy ones.

Usage: python tests/benchmarks/bench.py [--out bench.json] [--compare old.json] [--only "name name"] [--repeat 5]
The exit code is 1 if a case failed or exceeds its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cases import CASES, Case
from measure import UnsupportedError
from rich.console import Console
from tables import comparison, markdown, results, verdict

HERE = Path(__file__).resolve()
MACHINE = "machine"
TIME_LIMIT_SECONDS = 900


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the cases, show and save the results; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="the JSON file to write")
    parser.add_argument("--compare", type=Path, help="the JSON file of an earlier run")
    parser.add_argument("--only", default="", help="names of the cases, separated by spaces")
    parser.add_argument("--repeat", type=int, default=5, help="runs per median")
    parser.add_argument("--list", action="store_true", help="show the names of all cases")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="print an earlier run for docs/performance.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `dbbd` itself does
    console = Console()
    if options.list:
        console.print(results([], CASES))
        return 0
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text(encoding="utf-8"))["cases"]))  # noqa: T201
        return 0
    if options.case:
        print(json.dumps(measure_here(options.case, options.repeat)))  # noqa: T201
        return 0
    chosen = choose(options.only, parser)
    # Read first: a wrong path should be reported at once, and --out may overwrite the file.
    old = json.loads(options.compare.read_text(encoding="utf-8")) if options.compare else None
    with tempfile.TemporaryDirectory(prefix="dbbd-bench-", ignore_cleanup_errors=True) as folder:
        report = run(chosen, options.repeat, Path(folder), options.out)
    show(console, report, old)
    return exit_code(report)


def choose(only: str, parser: argparse.ArgumentParser) -> list[Case]:
    """Return the named cases, or all of them."""
    known = {case.name: case for case in CASES}
    for name in only.split():
        if name not in known:
            parser.error(f"unknown case {name}; choose from: {' '.join(known)}")
    return [known[name] for name in only.split()] or list(CASES)


def run(chosen: Sequence[Case], repeat: int, folder: Path, out: Path) -> dict[str, Any]:
    """Measure the machine and each case in separate processes; return the content of the JSON file.

    Args:
        chosen: the cases.
        repeat: runs per median.
        folder: an empty folder for everything that the cases write.
        out: the JSON file; written after each case, so that little is lost if the run is stopped.
    """
    machine = in_process(MACHINE, repeat, folder)
    if "error" in machine:
        sys.exit(f"the machine could not be measured: {machine['error']}")
    report: dict[str, Any] = {"machine": machine, "cases": []}
    for number, case in enumerate(chosen, start=1):
        print(f"{number}/{len(chosen)} {case.name}", file=sys.stderr, flush=True)  # noqa: T201
        report["cases"].append(row_of(case, in_process(case.name, repeat, folder)))
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def row_of(case: Case, measured: dict[str, Any]) -> dict[str, Any]:
    """The entry of a case in the JSON file."""
    return {
        "name": case.name,
        **{name: measured.get(name) for name in ("seconds", "score")},
        "target": case.target,
        "limit": case.limit,
        "peak_mb": measured.get("peak_mb"),
        "limit_mb": case.limit_mb,
        "unit": case.unit,
        "better": case.better,
        **{name: measured[name] for name in ("spread", "reference", "details", "skipped", "error") if name in measured},
    }


def in_process(name: str, repeat: int, folder: Path) -> dict[str, Any]:
    """Run a case in a separate process; return its measurements, or `error`, or the reason why it was `skipped`."""
    command = [sys.executable, str(HERE), "--case", name, "--repeat", str(repeat)]
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        environment = {
            **os.environ,
            # All cases share prepared data, and the user's cache is neither used nor changed.
            "DBBD_CACHE_DIR": str(folder / "cache"),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), own),
            "PYTHONDONTWRITEBYTECODE": "",  # unset: an installed program is not compiled at every start
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        try:
            process = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {TIME_LIMIT_SECONDS} s"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    sys.stderr.write(process.stderr)
    last = (process.stderr.strip().splitlines() or ["no error message"])[-1]
    return {"error": f"exit code {process.returncode}: {last}"}


def measure_here(name: str, repeat: int) -> dict[str, Any]:
    """Run a case in this process; return plain values."""
    if name == MACHINE:
        from machine import describe

        return describe(repeat)
    case = next(case for case in CASES if case.name == name)
    try:
        return asdict(case.measure(repeat))
    except UnsupportedError as reason:
        return {"skipped": str(reason)}


def show(console: Console, report: dict[str, Any], old: dict[str, Any] | None) -> None:
    """Print the machine, the results with details and errors, and the comparison with an earlier run."""
    machine = report["machine"]
    console.print(
        f"G {machine['gemm_fp32']:,.3g} GFLOP/s, B {machine['gemm_bf16']:,.3g} GFLOP/s, "
        f"copy {machine['copy_gbs']:,.3g} GB/s; {machine['cpu']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, Python {machine['python']}"
    )
    console.print(results(report["cases"], CASES))
    for row in report["cases"]:
        for kind in ("error", "skipped"):
            if kind in row:
                console.print(f"{row['name']}: {kind}: {row[kind]}", markup=False, highlight=False)
        if row.get("details"):
            numbers = ", ".join(f"{name} {value:,.4g}" for name, value in row["details"].items())
            console.print(f"{row['name']}: {numbers}", markup=False, highlight=False)
    if old is not None:
        console.print(comparison(old["cases"], report["cases"]))


def exit_code(report: dict[str, Any]) -> int:
    """Return 1 if a case failed or exceeds a limit, otherwise 0."""
    return int(any(verdict(row) == "FAILED" for row in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
