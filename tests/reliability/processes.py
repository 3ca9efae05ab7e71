"""Runs of the program as processes that can be killed, signaled and watched."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from forks import DBBD, Forks
from program import TINY, differences, environment, only_run, whole_state

TASKS = tuple(TINY)
FULL = os.environ.get("DBBD_RELIABILITY") == "full"
INTERRUPTED = {
    "image_classification": [
        *(*TINY["image_classification"], "--set", "training.batch_size=8"),
        *("--set", "checkpoint.every_steps=2", "--epochs", "16" if FULL else "3"),
    ],
    "dbbd": [*TINY["dbbd"], "--set", "checkpoint.every_steps=3", "--epochs", "30" if FULL else "6"],
    "segmentation": [*TINY["segmentation"], "--set", "checkpoint.every_steps=1", "--epochs", "30" if FULL else "6"],
    "url_classification": [
        *(*TINY["url_classification"], "--set", "checkpoint.every_steps=3", "--epochs", "20" if FULL else "3"),
    ],
}
"""Options of runs to interrupt: with a checkpoint every few steps."""
SECONDS = 120.0
"""Time limit for each process of these tests."""


@dataclass
class Program:
    """A running process of the program, observed from outside.

    Attributes:
        pid: ID of the process, which leads its own session.
        out: file with its standard output.
        err: file with its standard error.
        poll: returns its exit code, the negative signal number if a signal ended it, or None while it runs.
    """

    pid: int
    out: Path
    err: Path
    poll: Callable[[], int | None]

    def until(self, condition: Callable[[], Any], seconds: float = SECONDS, pause: float = 0.01) -> int | None:
        """Wait until a condition holds or the program has ended; return the exit code in the latter case."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None and not condition():
            assert time.monotonic() < deadline, f"still waiting after {seconds} s:\n{self.output()}"
            time.sleep(pause)
        return code

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for the end; return the exit code."""
        code = self.until(lambda: False, seconds)
        assert code is not None
        return code

    def listens(self) -> bool:
        """Return whether the program handles signals yet."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def output(self) -> str:
        """Return what the program has printed, standard error last."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def family(self) -> list[int]:
        """Return the live processes of its session: the program and those it started."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (OSError, psutil.Error):
                continue
        return found

    def workers(self) -> list[int]:
        """Return its data workers."""
        return [pid for pid in self.family() if pid != self.pid]

    def assert_gone(self, seconds: float = 5.0) -> None:
        """Assert that no process of its session is left after some seconds."""
        deadline = time.monotonic() + seconds
        while left := self.family():
            assert time.monotonic() < deadline, f"processes {left} outlived process {self.pid}"
            time.sleep(0.01)


BEFORE = """
import os, signal, tempfile
os.setsid()
tempfile.tempdir = None  # was found out before the environment changed
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN if number in {ignored} else signal.SIG_DFL)
if signal.SIGINT not in {ignored}:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python does when it starts
"""
"""Code that a copy runs first: it leads its own session, with default signal handling."""


def _set_signals(ignored: Sequence[int]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


@dataclass
class Place:
    """A working directory for runs, with its own folders for the cache and temporary files."""

    folder: Path
    forks: Forks
    programs: list[Program] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """The cache folder."""
        return self.folder / "cache"

    @property
    def temporary(self) -> Path:
        """The folder that the runs use for temporary files."""
        return self.folder / "tmp"

    @property
    def run(self) -> Path:
        """The only run folder."""
        return only_run(self.folder)

    def start(self, *arguments: str, ignored: Sequence[int] = (), held: bool = False, itself: bool = False) -> Program:
        """Start `dbbd ARGUMENTS` in this folder.

        Args:
            arguments: the command line.
            ignored: signals to ignore from the start.
            held: whether it waits for SIGCONT.
            itself: whether to start the installed program, which has to import everything, rather than a copy.
        """
        env = {"DBBD_CACHE_DIR": str(self.cache), "TMPDIR": str(self.temporary)}
        program = (self._start_itself if itself else self._start_copy)(arguments, env, ignored)
        self.programs.append(program)
        if not (held or itself):
            os.kill(program.pid, signal.SIGCONT)
        return program

    def _start_copy(self, arguments: Sequence[str], env: Mapping[str, str], ignored: Sequence[int]) -> Program:
        before = BEFORE.format(ignored=[int(number) for number in ignored])
        copy = self.forks.start(DBBD, *arguments, folder=self.folder, before=before, held=True, **env)
        ended: list[int] = []

        def poll() -> int | None:
            if not ended and (code := copy.poll()) is not None:
                ended.append(code)
            return ended[0] if ended else None

        out, err = (Path(f"{copy.output}.{name}") for name in ("out", "err"))
        return Program(copy.pid, out, err, poll)

    def _start_itself(self, arguments: Sequence[str], env: Mapping[str, str], ignored: Sequence[int]) -> Program:
        output = Path(tempfile.mkdtemp(dir=self.folder / "output"))
        with (output / "out").open("wb") as out, (output / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "dbbd_cli", *arguments],
                cwd=self.folder,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=partial(_set_signals, ignored),
            )
        return Program(process.pid, output / "out", output / "err", process.poll)

    def complete(self, *arguments: str) -> None:
        """Run `dbbd ARGUMENTS`, which must succeed."""
        program = self.start(*arguments)
        assert program.wait() == 0, program.output()

    def training(self) -> Callable[[], bool]:
        """Return a function that tells whether a process started after this call has begun to train."""
        before = self._size("run.log")
        start: list[int] = []

        def has_begun() -> bool:
            if self._size("run.log") == before:
                return False  # first written to when the history has been truncated to the checkpoint
            start.append(self._size("history.jsonl"))
            return start[-1] > start[0]

        return has_begun

    def _size(self, name: str) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"runs/*/{name}"))

    def assert_nothing_left(self, *programs: Program) -> None:
        """Assert that dead processes have left nothing behind that would stay."""
        for program in programs:
            program.assert_gone()
        folders = (self.folder / "runs", self.cache, self.temporary)
        left = [path.relative_to(self.folder) for folder in folders for path in folder.rglob("*")]
        left = [path for path in left if path.suffix == ".tmp" or path.parts[0] == "tmp"]
        left = [path for path in left if not path.name.startswith("torchinductor_")]  # PyTorch creates one per user
        for program in self.programs:
            left += Path("/dev/shm").glob(f"dbbd.{program.pid}-*")  # batches of its data workers
        assert left == [], f"left behind: {', '.join(map(str, left))}"


@contextmanager
def new_place(forks: Forks) -> Iterator[Place]:
    """Yield a new place and remove it afterwards. Its path is short: sockets do not work in long ones."""
    folder = Path(tempfile.mkdtemp(prefix="dbbd-"))
    for name in ("cache", "tmp", "output"):
        (folder / name).mkdir()
    place = Place(folder, forks)
    try:
        yield place
    finally:
        for program in place.programs:
            for pid in program.family():
                os.kill(pid, signal.SIGKILL)
            program.wait()
        shutil.rmtree(folder, ignore_errors=True)


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return the entries of a kind in the history of a run, without incomplete lines."""
    path = run / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [entry for entry in entries if entry["kind"] == kind]


def resume_commands(text: str) -> list[list[str]]:
    """Return the arguments of each `dbbd resume` command in a text."""
    return [shlex.split(line[line.index("dbbd resume") :])[1:] for line in text.splitlines() if "dbbd resume" in line]


def assert_equal_runs(run: Path, expected: Path) -> None:
    """Assert that an interrupted run equals an uninterrupted one, to the bit."""
    steps = [row["step"] for row in rows(run, "step")]
    assert steps == list(range(1, len(steps) + 1)), "a step is missing or duplicated"
    for name in ("ckpt.pth", "best_model.pth"):
        assert differences(whole_state(run, name), whole_state(expected, name)) == [], name
    assert (run / "history.jsonl").read_bytes() == (expected / "history.jsonl").read_bytes()


def options_of(values: Mapping[str, object]) -> list[str]:
    """Return settings as command-line options."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
