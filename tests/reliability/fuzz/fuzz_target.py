"""A process of the fuzzer: gives inputs to a reader and records the results."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CASE_SECONDS = 2
CASE_MEGABYTES = 300
"""Memory by which a case may enlarge the process, in MB."""
SPARE_MEGABYTES = 1500
"""Address space that a case can reserve, beyond that of the process at its start."""
SAVE_EVERY = 500

INSTRUMENTED = ["dbbd_cli", "planted_readers", "yaml", "zipfile", "PIL", "json"]
"""Packages whose Python code is instrumented, so that inputs that reach new parts of it are kept."""


def limit_memory() -> None:
    """Limit the address space, so that requests for very much memory fail, where the system supports that."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + SPARE_MEGABYTES * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_megabytes() -> float:
    """Return the peak memory of the process so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Notes:
    """Results so far, also on disk: an input may end the process."""

    def __init__(self, reader: str, state: Path, out: Path) -> None:
        self.reader = reader
        self.state = state
        self.out = out
        self.content: dict[str, Any] = {"cases": 0, "accepted": 0, "slowest": 0.0, "findings": {}}

    def found(self, what: str, data: bytes) -> None:
        """Keep the first input that shows a finding."""
        if what not in self.content["findings"]:
            path = self.out / f"{self.reader}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
            path.write_bytes(data)
            self.content["findings"][what] = str(path)
            self.save()

    def save(self) -> None:
        temporary = self.state.with_suffix(".new")
        temporary.write_text(json.dumps(self.content), encoding="utf-8")
        temporary.replace(self.state)


def described(error: BaseException) -> str:
    """Return the type of an error and the line of this program it comes from, which identify a finding."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "dbbd_cli" in frame.filename or "planted" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    text = str(error) if type(error).__name__ == "BrokenPromiseError" else ""
    kept = "".join(char for char in text.split("'")[0] if not char.isdigit())[:80]
    return f"{type(error).__name__} at {place} {kept}".strip()


def main() -> None:
    import atheris

    name, state, out, *options = sys.argv[1:]
    sys.path.append(str(Path(__file__).parent))
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from mutations import MOST, mutated
        from reader import examine
        from readers import reader_named

        reader = reader_named(name)
        seeds = reader.seeds()
    runs = next(int(option.removeprefix("-runs=")) for option in options if option.startswith("-runs="))
    notes = Notes(name, Path(state), Path(out))
    (folder := Path("files").absolute()).mkdir(exist_ok=True)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if not reader.structured and draw.random() < 0.5:
            return atheris.Mutate(data, max_size)
        numbers = [draw.randint(0, MOST) for _ in range(3 * draw.choice((1, 1, 2, 4)))]
        steps = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        return mutated(reader, data if draw.random() < 0.8 else draw.choice(seeds), steps, seeds)[:max_size]

    def one_case(data: bytes) -> None:
        notes.content["cases"] += 1
        size, started = peak_megabytes(), time.process_time()
        try:
            notes.content["accepted"] += examine(reader, data, folder)
        except Exception as error:
            notes.found(described(error), data)
        used, grown = time.process_time() - started, peak_megabytes() - size
        notes.content["slowest"] = max(notes.content["slowest"], used)
        if used > CASE_SECONDS or grown > CASE_MEGABYTES:
            what = f"{CASE_SECONDS} seconds" if used > CASE_SECONDS else f"{CASE_MEGABYTES} MB"
            notes.found(f"took more than {what}", data)
            notes.save()
            os._exit(0)  # the next process continues without this input, with its own peak of memory
        if notes.content["cases"] % SAVE_EVERY == 0 or notes.content["cases"] >= runs:
            notes.save()

    corpus = Path(options[-1])
    for seed in seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    limit_memory()
    longest = max(4096, 2 * max(map(len, seeds)))  # longer inputs are truncated, also seeds
    atheris.Setup([sys.argv[0], f"-max_len={longest}", *options], one_case, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
