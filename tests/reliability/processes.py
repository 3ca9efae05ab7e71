"""Runs of the program as processes that can be killed, signalled and watched."""

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

TASKS = ("image_classification", "dbbd")
FULL = os.environ.get("DBBD_RELIABILITY") == "full"
INTERRUPTED = {
    "image_classification": [
        *(*TINY["image_classification"], "--set", "training.batch_size=8"),
        *("--set", "checkpoint.every_steps=2", "--epochs", "16" if FULL else "3"),
    ],
    "dbbd": [*TINY["dbbd"], "--set", "checkpoint.every_steps=3", "--epochs", "30" if FULL else "6"],
}
"""Options of runs that are interrupted: with a checkpoint every few steps."""
SECONDS = 120.0
"""No process of these tests takes as long."""


@dataclass
class Program:
    """A run of the program, seen from outside.

    Attributes:
        pid: its process, which leads a session of its own.
        out: file with its standard output.
        err: file with its standard error.
        poll: gives its exit code, negative where a signal ended it, or None while it runs.
    """

    pid: int
    out: Path
    err: Path
    poll: Callable[[], int | None]

    def until(self, condition: Callable[[], Any], seconds: float = SECONDS, pause: float = 0.01) -> int | None:
        """Waits until a condition holds or the program has ended; gives the exit code of one that has."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None and not condition():
            assert time.monotonic() < deadline, f"still waiting after {seconds} s:\n{self.said()}"
            time.sleep(pause)
        return code

    def wait(self, seconds: float = SECONDS) -> int:
        """Waits for the end; gives the exit code."""
        code = self.until(lambda: False, seconds)
        assert code is not None
        return code

    def listens(self) -> bool:
        """Whether it has begun to handle signals."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def said(self) -> str:
        """What it wrote, errors last."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def family(self) -> list[int]:
        """The processes of its session that are not dead: itself, and those that it started."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (OSError, psutil.Error):
                continue
        return found

    def workers(self) -> list[int]:
        """The processes that load its batches."""
        return [pid for pid in self.family() if pid != self.pid]

    def assert_gone(self, seconds: float = 5.0) -> None:
        """Fails where a process of its session is still there after some seconds."""
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
"""What a copy does first: it leads a session, and has the signals of a terminal whatever the tests run in."""


def _set_signals(ignored: Sequence[int]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


@dataclass
class Place:
    """A current folder for runs, with folders of its own for caches and temporary files."""

    folder: Path
    forks: Forks
    programs: list[Program] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """Where prepared data is kept."""
        return self.folder / "cache"

    @property
    def temporary(self) -> Path:
        """What the system's folder of temporary files is for the runs."""
        return self.folder / "tmp"

    @property
    def run(self) -> Path:
        """The one run folder."""
        return only_run(self.folder)

    def start(self, *arguments: str, ignored: Sequence[int] = (), held: bool = False, itself: bool = False) -> Program:
        """Starts `dbbd ARGUMENTS` here.

        Args:
            arguments: the command line.
            ignored: signals that are ignored from the start.
            held: whether it waits until it is sent SIGCONT.
            itself: whether to start the installed program, with all that it has to import.
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
        """Runs `dbbd ARGUMENTS`, which must succeed."""
        program = self.start(*arguments)
        assert program.wait() == 0, program.said()

    def training(self) -> Callable[[], bool]:
        """Tells whether a process that is started after this call has begun to train."""
        before = self._size("run.log")
        start: list[int] = []

        def has_begun() -> bool:
            if self._size("run.log") == before:
                return False  # written to first when the history has been cut back to the checkpoint
            start.append(self._size("history.jsonl"))
            return start[-1] > start[0]

        return has_begun

    def _size(self, name: str) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"runs/*/{name}"))

    def assert_nothing_left(self, *programs: Program) -> None:
        """Fails where dead processes have left something behind that nobody would remove."""
        for program in programs:
            program.assert_gone()
        folders = (self.folder / "runs", self.cache, self.temporary)
        left = [path.relative_to(self.folder) for folder in folders for path in folder.rglob("*")]
        left = [path for path in left if path.suffix == ".tmp" or path.parts[0] == "tmp"]
        left = [path for path in left if not path.name.startswith("torchinductor_")]  # PyTorch makes one per user
        for program in self.programs:
            left += Path("/dev/shm").glob(f"dbbd.{program.pid}-*")  # batches of its workers
        assert left == [], f"left behind: {', '.join(map(str, left))}"


@contextmanager
def new_place(forks: Forks) -> Iterator[Place]:
    """A new place, removed afterwards. Its path is short: sockets do not work below long ones."""
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
    """The entries of a kind in the history of a run; what is torn is left out."""
    path = run / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [entry for entry in entries if entry["kind"] == kind]


def resume_commands(text: str) -> list[list[str]]:
    """The commands that resume a run, one for each line that holds one: what comes after `dbbd`."""
    return [shlex.split(line[line.index("dbbd resume") :])[1:] for line in text.splitlines() if "dbbd resume" in line]


def assert_equal_runs(run: Path, expected: Path) -> None:
    """Fails where a run that was interrupted differs from one that was not, in a single bit or line."""
    steps = [row["step"] for row in rows(run, "step")]
    assert steps == list(range(1, len(steps) + 1)), "a step is missing, or there twice"
    for name in ("ckpt.pth", "best_model.pth"):
        assert differences(whole_state(run, name), whole_state(expected, name)) == [], name
    assert (run / "history.jsonl").read_bytes() == (expected / "history.jsonl").read_bytes()


def options_of(values: Mapping[str, object]) -> list[str]:
    """Settings as options of a command line."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
