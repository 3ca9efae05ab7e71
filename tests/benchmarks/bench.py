"""Measures how near `dbbd` is to what the machine can do.

Each case runs in a fresh process, so that its memory is its own and one that dies ends no other. Scores are relative to
the arithmetic of the machine (G: GFLOP/s of an fp32 matrix product, B: of a bf16 one) or to something else that is
measured beside them, in turn, so that they hold on any machine and while others use it too.

Usage: python tests/benchmarks/bench.py [--out bench.json] [--compare old.json] [--only "name name"] [--repeat 5]
Ends with 1 if a case failed or is beyond its limit.
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
from measure import NotHereError
from rich.console import Console
from tables import comparison, markdown, results, verdict

HERE = Path(__file__).resolve()
MACHINE = "machine"
TIME_LIMIT_SECONDS = 900


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, measures, shows and writes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="the JSON file that is written")
    parser.add_argument("--compare", type=Path, help="the JSON file of an earlier run")
    parser.add_argument("--only", default="", help="names of the cases, separated by spaces")
    parser.add_argument("--repeat", type=int, default=5, help="runs that a median is taken of")
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
    # Read first: a wrong path should not be told after minutes, nor the file be overwritten before it is read.
    old = json.loads(options.compare.read_text(encoding="utf-8")) if options.compare else None
    with tempfile.TemporaryDirectory(prefix="dbbd-bench-", ignore_cleanup_errors=True) as folder:
        report = run(chosen, options.repeat, Path(folder), options.out)
    show(console, report, old)
    return exit_code(report)


def choose(only: str, parser: argparse.ArgumentParser) -> list[Case]:
    """The cases of the given names, or all."""
    known = {case.name: case for case in CASES}
    for name in only.split():
        if name not in known:
            parser.error(f"there is no case {name}; there are: {' '.join(known)}")
    return [known[name] for name in only.split()] or list(CASES)


def run(chosen: Sequence[Case], repeat: int, folder: Path, out: Path) -> dict[str, Any]:
    """Measures the machine and each case in a process of its own; returns what the JSON file then holds.

    Args:
        chosen: the cases.
        repeat: runs that a median is taken of.
        folder: an empty folder, for all that the cases write.
        out: the JSON file; written after each case, so that little is lost when the run is stopped.
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
    """What the JSON file holds of a case."""
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
    """Runs a case in a process of its own; gives what it measured, or `error`, or why it was `skipped`."""
    command = [sys.executable, str(HERE), "--case", name, "--repeat", str(repeat)]
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        environment = {
            **os.environ,
            # What is prepared once is there for every case; nothing of the user's is used or left behind.
            "DBBD_CACHE_DIR": str(folder / "cache"),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), own),
            "PYTHONDONTWRITEBYTECODE": "",  # unset: an installed program is not compiled at each start
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
    last = (process.stderr.strip().splitlines() or ["nothing was said"])[-1]
    return {"error": f"exit code {process.returncode}: {last}"}


def measure_here(name: str, repeat: int) -> dict[str, Any]:
    """Runs a case in this process; gives plain values."""
    if name == MACHINE:
        from machine import describe

        return describe(repeat)
    case = next(case for case in CASES if case.name == name)
    try:
        return asdict(case.measure(repeat))
    except NotHereError as reason:
        return {"skipped": str(reason)}


def show(console: Console, report: dict[str, Any], old: dict[str, Any] | None) -> None:
    """Prints the machine, the table, what was noticed, and the comparison with an earlier run."""
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
    """1 if a case failed or is beyond a limit, else 0."""
    return int(any(verdict(row) == "FAILED" for row in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
