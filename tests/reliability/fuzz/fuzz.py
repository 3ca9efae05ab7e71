"""Coverage-guided fuzzing of every reader: `python tests/reliability/fuzz/fuzz.py --cases 100000`.

Each reader runs in its own process, which is restarted if an input ends it. An input that reveals a defect is kept as a
file; `--repeat FILE` reads it again, without the fuzzer, and shows the traceback. Needs Atheris, on Linux or macOS.
"""

# ruff: noqa: T201 - what it prints is its result

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from readers import NAMES, PLANTED

HERE = Path(__file__).absolute().parent
REPOSITORY = HERE.parents[2]
CASE_SECONDS = 2


@dataclass
class Outcome:
    """The outcome of the cases of one reader."""

    reader: str
    cases: int = 0
    accepted: int = 0
    seconds: float = 0
    slowest: float = 0
    """Processor seconds of the slowest case, with instrumentation."""
    edges: int = 0
    features: int = 0
    findings: dict[str, Path] = field(default_factory=dict)
    """Each finding, with the input that shows it."""
    error: str = ""
    """Reason why the cases could not be run."""


def fuzz(name: str, cases: int, out: Path, *, most_processes: int = 20) -> Outcome:
    """Run the cases of one reader, in a new process whenever an input ends it."""
    outcome = Outcome(name)
    started = time.monotonic()
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as scratch:
        for attempt in range(most_processes):
            state = Path(scratch) / f"state-{attempt}.json"
            process = _start(name, cases - outcome.cases, seed=attempt + 1, scratch=Path(scratch), out=out, state=state)
            _add(outcome, state, process.stderr)
            ended_well = process.returncode == 0 and state.exists()
            if not ended_well and not _add_ending(outcome, process, out):
                break
            if outcome.cases >= cases:
                break
    outcome.seconds = time.monotonic() - started
    return outcome


def _start(
    name: str, cases: int, *, seed: int, scratch: Path, out: Path, state: Path
) -> subprocess.CompletedProcess[str]:
    (corpus := scratch / "corpus").mkdir(exist_ok=True)
    (work := scratch / "work").mkdir(exist_ok=True)
    options = [
        *(f"-runs={cases}", f"-seed={seed}", "-len_control=0", "-print_final_stats=0"),
        *("-timeout=20", "-report_slow_units=1000", "-rss_limit_mb=0", f"-artifact_prefix={out / name}-", str(corpus)),
    ]
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "fuzz_target.py"), name, str(state), str(out), *options],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _add(outcome: Outcome, state: Path, log: str) -> None:
    """Add the notes that a process wrote before it ended."""
    if state.exists():
        notes = json.loads(state.read_text(encoding="utf-8"))
        outcome.cases += notes["cases"]
        outcome.accepted += notes["accepted"]
        outcome.slowest = max(outcome.slowest, notes["slowest"])
        for what, file in notes["findings"].items():
            _add_finding(outcome, what, Path(file))
    for edges, features in re.findall(r"cov: (\d+) ft: (\d+)", log):
        outcome.edges, outcome.features = max(outcome.edges, int(edges)), max(outcome.features, int(features))


def _add_ending(outcome: Outcome, process: subprocess.CompletedProcess[str], out: Path) -> bool:
    """Add the input that ended a process; return whether there is one, so that it makes sense to continue."""
    code = process.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    artifacts = re.findall(r"Test unit written to (\S+)", process.stderr)
    if not artifacts:
        lines = process.stderr.strip().splitlines()
        outcome.error = f"{how}: {lines[-1] if lines else 'nothing was said'}"
        return False
    kind = "took more than 20 seconds by the clock" if "timeout-" in artifacts[-1] else f"ended the process ({how})"
    _add_finding(outcome, kind, Path(artifacts[-1]))
    outcome.cases += 1
    return True


def _add_finding(outcome: Outcome, what: str, file: Path) -> None:
    """Add a finding; one about time only if it recurs without the instrumentation, which slows everything down."""
    if "seconds" in what and what not in outcome.findings:
        command = [sys.executable, "-W", "ignore", __file__, "--repeat", str(file)]
        try:
            if subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0:
                file.unlink(missing_ok=True)
                return
        except subprocess.TimeoutExpired:
            pass
    outcome.findings.setdefault(what, file)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table."""
    head = ("reader", "cases", "accepted", "seconds", "edges", "features", "slowest ms", "findings")
    rows = [head] + [
        (
            *(o.reader, f"{o.cases:,}", f"{o.accepted:,}", f"{o.seconds:.0f}", str(o.edges), str(o.features)),
            *(f"{1000 * o.slowest:.0f}", o.error or str(len(o.findings))),
        )
        for o in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def repeat(file: Path) -> int:
    """Read an input again, without the fuzzer; show the traceback of an undocumented error."""
    sys.path.insert(0, str(REPOSITORY))
    from fuzz_target import limit_memory
    from reader import examine
    from readers import reader_named

    reader = reader_named(max((n for n in _all_names() if file.name.startswith(f"{n}-")), key=len))
    limit_memory()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        accepted = examine(reader, file.read_bytes(), Path(folder))
    used = time.process_time() - started
    print(f"{reader.name}: {'accepted' if accepted else 'refused as documented'}, after {used:.2f} s")
    return int(used > CASE_SECONDS)


def _all_names() -> list[str]:
    return [name for names in (*NAMES.values(), *PLANTED.values()) for name in names]


def self_check(out: Path) -> list[str]:
    """Look for the planted defects; return those that were missed or reported differently."""
    from planted_readers import FINDINGS

    wrong = []
    for name, (expected, cases) in FINDINGS.items():
        outcome = fuzz(name, cases, out, most_processes=1)
        if outcome.error or not any(expected in what for what in outcome.findings):
            wrong.append(f"{name}: {outcome.error or list(outcome.findings) or 'nothing was found'}")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if anything was found, 2 if nothing could be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"which; all of them by default: {_all_names()}")
    parser.add_argument("--cases", type=int, default=100_000, help="inputs for each reader")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), help="folder of the inputs that show a defect"
    )
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="read one of these inputs again")
    parser.add_argument("--self-check", action="store_true", help="only look for the planted defects")
    options: Any = parser.parse_args(arguments)
    if options.repeat:
        return repeat(options.repeat)
    if importlib.util.find_spec("atheris") is None:
        print("Atheris is not installed: pip install atheris (Linux or macOS, Python 3.11 or newer)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        missed = self_check(Path(scratch))
    planted = sum(map(len, PLANTED.values()))
    print(f"planted defects: {planted - len(missed)} of {planted} found", flush=True)
    for finding in missed:
        print(finding)
    if missed or options.self_check:
        return int(bool(missed))
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in options.readers or [name for names in NAMES.values() for name in names]:
        outcomes.append(fuzz(name, options.cases, out))
        print(table(outcomes[-1:]).splitlines()[-1], flush=True)
    print(table(outcomes))
    for outcome in outcomes:
        for what, file in outcome.findings.items():
            print(f"{outcome.reader}: {what}\n    again with: python {Path(__file__)} --repeat {file}")
    if not any(out.iterdir()):
        out.rmdir()
    return int(any(outcome.findings or outcome.error for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
